INSERT INTO dead_letters (dead_letter_id, table_name, sqlstate, reason, payload, failed_at)
SELECT dead_letter_id, table_name, sqlstate, reason, payload, failed_at
FROM jsonb_to_recordset($1::jsonb) AS r (
    dead_letter_id uuid, table_name text, sqlstate text, reason text, payload text, failed_at timestamptz
)
ON CONFLICT DO NOTHING
