-- Forget $2 events that were captured before $1, with what was found out about them.
WITH doomed AS (
    SELECT event_id FROM events WHERE captured_at < $1 ORDER BY captured_at LIMIT $2
), forgotten_analyses AS (
    DELETE FROM analyses a USING doomed d WHERE a.event_id = d.event_id
), forgotten_outcomes AS (
    DELETE FROM outcomes o USING doomed d WHERE o.event_id = d.event_id
), forgotten AS (
    DELETE FROM events e USING doomed d WHERE e.event_id = d.event_id RETURNING 1
)
SELECT count(*) FROM forgotten
