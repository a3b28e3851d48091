-- Analyses that arrived after their event had been forgotten.
WITH forgotten AS (
    DELETE FROM analyses WHERE event_id IN (
        SELECT a.event_id FROM analyses a
        WHERE a.completed_at < $1 AND NOT EXISTS (SELECT FROM events e WHERE e.event_id = a.event_id)
        LIMIT $2
    ) RETURNING 1
)
SELECT count(*) FROM forgotten
