-- Postgres makes the ledger's database by itself; MLflow has one of its own.
CREATE DATABASE mlflow;
