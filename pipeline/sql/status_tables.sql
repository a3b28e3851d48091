SELECT 'events' AS name, count(*) AS rows, min(captured_at) AS oldest, max(captured_at) AS newest,
       pg_total_relation_size('events') AS size_bytes
FROM events
UNION ALL
SELECT 'analyses', count(*), min(completed_at), max(completed_at), pg_total_relation_size('analyses') FROM analyses
UNION ALL
SELECT 'outcomes', count(*), min(ended_at), max(ended_at), pg_total_relation_size('outcomes') FROM outcomes
UNION ALL
SELECT 'gaps', count(*), min(started_at), max(ended_at), pg_total_relation_size('gaps') FROM gaps
UNION ALL
SELECT 'dead_letters', count(*), min(failed_at), max(failed_at), pg_total_relation_size('dead_letters') FROM dead_letters
UNION ALL
SELECT 'alarms', count(*), min(raised_at), max(raised_at), pg_total_relation_size('alarms') FROM alarms
