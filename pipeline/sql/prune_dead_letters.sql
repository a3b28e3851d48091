WITH forgotten AS (
    DELETE FROM dead_letters
    WHERE dead_letter_id IN (SELECT dead_letter_id FROM dead_letters WHERE failed_at < $1 LIMIT $2)
    RETURNING 1
)
SELECT count(*) FROM forgotten
