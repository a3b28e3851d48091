-- $1 is a JSON array with one object per row: Postgres does the parsing, the box does nothing per row.
-- No conflict target and no RETURNING: both need more than the right to insert.
INSERT INTO events (event_id, site, camera, kind, priority, reason, label, track_id, related_id, detections,
                    captured_at, detected_at, accepted_at, clock_synced, boot_id, boot_s)
SELECT event_id, site, camera, kind, priority, reason, label, track_id, related_id, detections,
       captured_at, detected_at, accepted_at, clock_synced, boot_id, boot_s
FROM jsonb_to_recordset($1::jsonb) AS r (
    event_id uuid, site text, camera text, kind text, priority text, reason text, label text, track_id bigint,
    related_id uuid, detections jsonb, captured_at timestamptz, detected_at timestamptz, accepted_at timestamptz,
    clock_synced boolean, boot_id text, boot_s double precision
)
ON CONFLICT DO NOTHING
