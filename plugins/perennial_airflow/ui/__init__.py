"""What Perennial adds to Airflow's web server."""
