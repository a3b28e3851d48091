-- Outcomes that arrived after their event had been forgotten.
WITH forgotten AS (
    DELETE FROM outcomes WHERE event_id IN (
        SELECT o.event_id FROM outcomes o
        WHERE o.ended_at < $1 AND NOT EXISTS (SELECT FROM events e WHERE e.event_id = o.event_id)
        LIMIT $2
    ) RETURNING 1
)
SELECT count(*) FROM forgotten
