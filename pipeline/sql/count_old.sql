-- How many rows `prune` would take; of analyses and outcomes those that lost their event.
SELECT
    (SELECT count(*) FROM events WHERE captured_at < $1) AS events,
    (SELECT count(*) FROM analyses a
     WHERE completed_at < $1 AND NOT EXISTS (SELECT FROM events e WHERE e.event_id = a.event_id)) AS analyses,
    (SELECT count(*) FROM outcomes o
     WHERE ended_at < $1 AND NOT EXISTS (SELECT FROM events e WHERE e.event_id = o.event_id)) AS outcomes,
    (SELECT count(*) FROM gaps WHERE ended_at < $1) AS gaps,
    (SELECT count(*) FROM dead_letters WHERE failed_at < $1) AS dead_letters,
    (SELECT count(*) FROM alarms WHERE raised_at < $1) AS alarms
