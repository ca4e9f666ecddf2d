#!/bin/sh
# Runs once, when PostgreSQL makes its data folder: a database and a user of its own for MLflow.
set -eu
psql --set=ON_ERROR_STOP=1 --set=password="$MLFLOW_DB_PASSWORD" --username "$POSTGRES_USER" --dbname postgres <<'SQL'
CREATE ROLE mlflow LOGIN PASSWORD :'password';
CREATE DATABASE mlflow OWNER mlflow;
SQL
