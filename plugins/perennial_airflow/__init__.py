"""Everything of Perennial that imports Airflow: operators, hooks, triggers, the DAG factory and the spec bundle."""
