-- What the daemon wrote: every event since the start of this run, what the detector saw in it, what was answered,
-- and how it ended.
SELECT to_char(captured_at, 'HH24:MI:SS') AS seen_at,
       kind,
       priority,
       reason,
       (SELECT string_agg(DISTINCT seen ->> 'label', ', ') FROM jsonb_array_elements(detections) AS seen) AS in_view,
       people_count AS people,
       provider,
       outcome
FROM event_log
WHERE accepted_at >= $1
ORDER BY captured_at;
