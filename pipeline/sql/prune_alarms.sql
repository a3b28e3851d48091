WITH forgotten AS (
    DELETE FROM alarms WHERE alarm_id IN (SELECT alarm_id FROM alarms WHERE raised_at < $1 LIMIT $2) RETURNING 1
)
SELECT count(*) FROM forgotten
