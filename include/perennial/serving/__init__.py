"""The scoring service: `perennial serve`. Nothing of Airflow here, and nothing else of Perennial imports it."""
