INSERT INTO alarms (alarm_id, site, kind, message, raised_at)
SELECT alarm_id, site, kind, message, raised_at
FROM jsonb_to_recordset($1::jsonb) AS r (
    alarm_id uuid, site text, kind text, message text, raised_at timestamptz
)
ON CONFLICT DO NOTHING
