-- The newest $7 events (null: all) that pass the filters (null: any), as JSON, oldest first.
SELECT row_to_json(listed) AS event
FROM (
    SELECT e.*, o.outcome, o.reason AS outcome_reason, o.ended_at, a.analysis
    FROM events e
    LEFT JOIN outcomes o USING (event_id)
    LEFT JOIN LATERAL (
        SELECT to_jsonb(found) - 'event_id' - 'inserted_at' AS analysis, found.scene_description
        FROM analyses found WHERE found.event_id = e.event_id
    ) a ON true
    WHERE ($1::timestamptz IS NULL OR e.captured_at >= $1)
      AND ($2::timestamptz IS NULL OR e.captured_at < $2)
      AND ($3::text IS NULL OR e.camera = $3)
      AND ($4::text IS NULL OR e.kind = $4)
      AND ($5::text IS NULL OR e.priority = $5)
      AND ($6::text IS NULL OR strpos(lower(concat_ws(' ', e.reason, e.label, a.scene_description, o.reason)), lower($6)) > 0)
    ORDER BY e.captured_at DESC, e.event_id DESC
    LIMIT $7
) listed
ORDER BY listed.captured_at, listed.event_id
