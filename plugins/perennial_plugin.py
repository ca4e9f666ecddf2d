"""The only file of this folder that Airflow runs as a plugin, in every process: so it imports next to nothing."""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin


class _WebApplications:
    """Builds the web application when the API server asks for it; no task pays for FastAPI's imports."""

    def __get__(self, instance: object, owner: type) -> list[dict[str, Any]]:
        from perennial_airflow.links import PAGES_PREFIX
        from perennial_airflow.ui.pages import create_app

        return [{"app": create_app(), "url_prefix": PAGES_PREFIX, "name": "perennial"}]


class PerennialPlugin(AirflowPlugin):
    """Adds the pages that links on tasks lead to."""

    name = "perennial"
    fastapi_apps: Any = _WebApplications()
