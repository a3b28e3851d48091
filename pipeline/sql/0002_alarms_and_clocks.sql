-- What the box has to say about itself: a journal that was damaged, a disk that was full.
CREATE TABLE alarms (
    alarm_id    uuid PRIMARY KEY,
    site        text NOT NULL,
    kind        text NOT NULL,
    message     text NOT NULL,
    raised_at   timestamptz NOT NULL,
    inserted_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX alarms_by_time ON alarms (raised_at);

-- How the box's clocks stood when it accepted the event; null in rows of older boxes, or where it could not tell.
-- clock_synced: a time server had set the clock, so accepted_at is right. boot_s: seconds since the boot boot_id.
ALTER TABLE events
    ADD COLUMN clock_synced boolean,
    ADD COLUMN boot_id      text,
    ADD COLUMN boot_s       double precision;

CREATE OR REPLACE VIEW event_log WITH (security_invoker = true) AS
SELECT e.event_id, e.site, e.camera, e.kind, e.priority, e.reason, e.label, e.track_id, e.related_id, e.detections,
       e.captured_at, e.detected_at, e.accepted_at,
       o.outcome, o.reason AS outcome_reason, o.ended_at,
       a.provider, a.model, a.model_version, a.degraded, a.answers, a.people_count, a.objects, a.spatial_coordinates,
       a.scene_description, a.confidence_scores, a.processing_time_ms, a.tokens_in, a.tokens_out, a.cost_usd,
       a.attempts, a.started_at, a.completed_at,
       e.inserted_at,
       e.clock_synced
FROM events e
LEFT JOIN analyses a USING (event_id)
LEFT JOIN outcomes o USING (event_id);
