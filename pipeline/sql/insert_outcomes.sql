INSERT INTO outcomes (event_id, outcome, reason, ended_at)
SELECT event_id, outcome, reason, ended_at
FROM jsonb_to_recordset($1::jsonb) AS r (event_id uuid, outcome text, reason text, ended_at timestamptz)
ON CONFLICT DO NOTHING
