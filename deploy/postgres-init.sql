-- Run by PostgreSQL's image on an empty volume: a database with its owner for Dagster and for Metabase.
\getenv dagster_password DAGSTER_POSTGRES_PASSWORD
\getenv metabase_password METABASE_POSTGRES_PASSWORD
CREATE ROLE dagster LOGIN PASSWORD :'dagster_password';
CREATE ROLE metabase LOGIN PASSWORD :'metabase_password';
CREATE DATABASE dagster OWNER dagster;
CREATE DATABASE metabase OWNER metabase;
REVOKE CONNECT ON DATABASE dagster, metabase FROM PUBLIC;
