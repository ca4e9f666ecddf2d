"""The webhook in Airflow's API server: alerts of other systems come in here, in whatever form those speak."""
