"""Perennial: continuous training for Apache Airflow 3. This is the core; it never imports Airflow."""

__version__ = "0.1.0"
