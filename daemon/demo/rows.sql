-- What the daemon wrote: every event since the start of this run, what it was, and how it ended.
SELECT to_char(captured_at, 'HH24:MI:SS')         AS seen_at,
       kind,
       priority,
       reason,
       people_count                       AS people,
       objects,
       outcome
FROM event_log
WHERE accepted_at >= $1
ORDER BY captured_at;
