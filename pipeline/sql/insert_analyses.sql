INSERT INTO analyses (event_id, provider, model, model_version, degraded, answers, people_count, objects,
                      spatial_coordinates, scene_description, confidence_scores, processing_time_ms, tokens_in,
                      tokens_out, cost_usd, attempts, started_at, completed_at)
SELECT event_id, provider, model, model_version, degraded, answers, people_count, objects,
       spatial_coordinates, scene_description, confidence_scores, processing_time_ms, tokens_in,
       tokens_out, cost_usd, attempts, started_at, completed_at
FROM jsonb_to_recordset($1::jsonb) AS r (
    event_id uuid, provider text, model text, model_version text, degraded boolean, answers jsonb,
    people_count integer, objects jsonb, spatial_coordinates jsonb, scene_description text, confidence_scores jsonb,
    processing_time_ms double precision, tokens_in integer, tokens_out integer, cost_usd double precision,
    attempts jsonb, started_at timestamptz, completed_at timestamptz
)
ON CONFLICT DO NOTHING
