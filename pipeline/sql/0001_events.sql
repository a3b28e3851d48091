-- What a box records. It only ever inserts: an INSERT-only role is enough, and rows may arrive in any order,
-- so there are no foreign keys. Every key is made on the box, so that sending a row twice changes nothing.

CREATE TABLE events (
    event_id    uuid PRIMARY KEY,
    site        text NOT NULL,
    camera      text NOT NULL,
    kind        text NOT NULL,
    priority    text NOT NULL CONSTRAINT events_priority CHECK (priority IN ('critical', 'high', 'medium', 'low')),
    reason      text NOT NULL,
    label       text,
    track_id    bigint,
    related_id  uuid,
    detections  jsonb NOT NULL,
    captured_at timestamptz NOT NULL,
    detected_at timestamptz NOT NULL,
    accepted_at timestamptz NOT NULL,
    inserted_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX events_by_time ON events (captured_at);
CREATE INDEX events_by_camera ON events (camera, captured_at DESC);
CREATE INDEX events_by_kind ON events (kind, captured_at DESC);
CREATE INDEX events_by_arrival ON events USING brin (inserted_at);

CREATE TABLE analyses (
    event_id            uuid PRIMARY KEY,
    provider            text NOT NULL,
    model               text NOT NULL,
    model_version       text NOT NULL,
    degraded            boolean NOT NULL,
    answers             jsonb NOT NULL,
    people_count        integer,
    objects             jsonb,
    spatial_coordinates jsonb,
    scene_description   text,
    confidence_scores   jsonb,
    processing_time_ms  double precision NOT NULL,
    tokens_in           integer,
    tokens_out          integer,
    cost_usd            double precision,
    attempts            jsonb NOT NULL,
    started_at          timestamptz NOT NULL,
    completed_at        timestamptz NOT NULL,
    inserted_at         timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX analyses_by_time ON analyses (completed_at);

CREATE TABLE outcomes (
    event_id    uuid PRIMARY KEY,
    outcome     text NOT NULL CONSTRAINT outcomes_outcome CHECK (outcome IN ('done', 'degraded', 'failed', 'expired', 'shed')),
    reason      text NOT NULL,
    ended_at    timestamptz NOT NULL,
    inserted_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX outcomes_by_time ON outcomes (ended_at);
CREATE INDEX outcomes_by_arrival ON outcomes USING brin (inserted_at);

-- A span of time in which a camera gave no picture, so that nothing can be said about it.
CREATE TABLE gaps (
    gap_id      uuid PRIMARY KEY,
    site        text NOT NULL,
    camera      text NOT NULL,
    started_at  timestamptz NOT NULL,
    ended_at    timestamptz NOT NULL,
    reason      text NOT NULL,
    inserted_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX gaps_by_camera ON gaps (camera, started_at DESC);

-- Rows that the database refused one by one; the payload is escaped and at most 4 KiB.
CREATE TABLE dead_letters (
    dead_letter_id uuid PRIMARY KEY,
    table_name     text NOT NULL,
    sqlstate       text NOT NULL,
    reason         text NOT NULL,
    payload        text NOT NULL,
    failed_at      timestamptz NOT NULL,
    inserted_at    timestamptz NOT NULL DEFAULT now()
);

-- The views use the rights of whoever reads them, so that row-level security holds through them too.

-- Every event with what was found out about it. `outcome` is null while the event is still open.
CREATE VIEW event_log WITH (security_invoker = true) AS
SELECT e.event_id, e.site, e.camera, e.kind, e.priority, e.reason, e.label, e.track_id, e.related_id, e.detections,
       e.captured_at, e.detected_at, e.accepted_at,
       o.outcome, o.reason AS outcome_reason, o.ended_at,
       a.provider, a.model, a.model_version, a.degraded, a.answers, a.people_count, a.objects, a.spatial_coordinates,
       a.scene_description, a.confidence_scores, a.processing_time_ms, a.tokens_in, a.tokens_out, a.cost_usd,
       a.attempts, a.started_at, a.completed_at,
       e.inserted_at
FROM events e
LEFT JOIN analyses a USING (event_id)
LEFT JOIN outcomes o USING (event_id);

CREATE VIEW open_events WITH (security_invoker = true) AS
SELECT e.event_id, e.site, e.camera, e.kind, e.priority, e.reason, e.captured_at, now() - e.captured_at AS age
FROM events e
WHERE NOT EXISTS (SELECT FROM outcomes o WHERE o.event_id = e.event_id);

CREATE VIEW hourly_counts WITH (security_invoker = true) AS
SELECT date_trunc('hour', captured_at) AS hour, site, camera, kind, priority,
       count(*) AS events,
       count(*) FILTER (WHERE outcome IN ('done', 'degraded')) AS answered,
       count(*) FILTER (WHERE outcome IN ('failed', 'expired', 'shed')) AS unanswered,
       count(*) FILTER (WHERE outcome IS NULL) AS open,
       max(people_count) AS most_people
FROM event_log
GROUP BY 1, 2, 3, 4, 5;

-- How each provider did, day by day (UTC).
CREATE VIEW provider_health WITH (security_invoker = true) AS
SELECT (completed_at AT TIME ZONE 'UTC')::date AS day, provider, model,
       count(*) AS answers,
       count(*) FILTER (WHERE degraded) AS degraded,
       round(percentile_cont(0.5) WITHIN GROUP (ORDER BY processing_time_ms)::numeric, 1) AS p50_ms,
       round(percentile_cont(0.95) WITHIN GROUP (ORDER BY processing_time_ms)::numeric, 1) AS p95_ms,
       coalesce(sum(tokens_in), 0) AS tokens_in,
       coalesce(sum(tokens_out), 0) AS tokens_out,
       coalesce(sum(cost_usd), 0) AS cost_usd
FROM analyses
GROUP BY 1, 2, 3;
