"""The embedded default: S3, MLflow, Airflow and the scoring service on this machine; no Docker, account or root.

For trying Perennial and for its tests. `make demo` runs it, `make stop` ends it; see `Stack`.
"""
