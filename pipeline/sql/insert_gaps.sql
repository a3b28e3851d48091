INSERT INTO gaps (gap_id, site, camera, started_at, ended_at, reason)
SELECT gap_id, site, camera, started_at, ended_at, reason
FROM jsonb_to_recordset($1::jsonb) AS r (
    gap_id uuid, site text, camera text, started_at timestamptz, ended_at timestamptz, reason text
)
ON CONFLICT DO NOTHING
