-- Events that arrived, or whose outcome did, after $1, as JSON, in that order.
SELECT row_to_json(changed) AS event, changed_at
FROM (
    SELECT e.*, o.outcome, o.reason AS outcome_reason, o.ended_at,
           to_jsonb(a) - 'event_id' - 'inserted_at' AS analysis
    FROM events e
    LEFT JOIN outcomes o USING (event_id)
    LEFT JOIN analyses a USING (event_id)
    WHERE e.event_id IN (
        SELECT event_id FROM events WHERE inserted_at > $1
        UNION ALL
        SELECT event_id FROM outcomes WHERE inserted_at > $1
    )
) changed
CROSS JOIN LATERAL (
    SELECT greatest(changed.inserted_at, (SELECT inserted_at FROM outcomes WHERE event_id = changed.event_id)) AS changed_at
) newest
ORDER BY changed_at, changed.captured_at, changed.event_id
