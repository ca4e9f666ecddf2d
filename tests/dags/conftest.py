"""DAG tests: an Airflow home of their own, no database."""

from tests.airflow_home import prepare

prepare()
