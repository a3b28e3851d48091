WITH forgotten AS (
    DELETE FROM gaps WHERE gap_id IN (SELECT gap_id FROM gaps WHERE ended_at < $1 LIMIT $2) RETURNING 1
)
SELECT count(*) FROM forgotten
