SELECT
    current_setting('server_version') AS server_version,
    current_database() AS database,
    current_user AS role,
    current_schema() AS schema,
    current_setting('transaction_read_only') = 'on' AS read_only,
    pg_database_size(current_database()) AS size_bytes
