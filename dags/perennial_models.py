"""One Airflow DAG for each spec, for a plain dags folder. SpecBundle does the same, and parses in parallel."""

from perennial_airflow.dag_factory import dags_of

globals().update(dags_of())
