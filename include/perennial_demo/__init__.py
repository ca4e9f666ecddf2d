"""The embedded default: S3, MLflow and Airflow on this machine, with no Docker, no account and no root.

For trying Perennial and for its tests. `make demo` runs it, `make stop` ends it; see `Stack`.
"""
