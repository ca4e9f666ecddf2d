"""Airflow connections as typed clients."""
