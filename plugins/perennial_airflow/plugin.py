"""What Perennial adds to Airflow's web server: the pages that the buttons on tasks lead to, and the webhook.

Airflow finds the class through the entry point `airflow.plugins` of the installed package; where the package is not
installed but merely on the path, plugins/perennial_plugin.py hands it over. Never both: Airflow's task processes stop
loading plugins at the first name that comes twice.

Tasks start ten times faster if the process that forks them has imported what they need. That is no plugin's business,
because every process loads plugins; switch it on with two lines in `airflow_local_settings.py`, a module anywhere on
the path (such as $AIRFLOW_HOME/config) that Airflow imports by itself:

    from perennial_airflow.preload import preload
    preload()

It costs every Airflow process ten seconds at its start, so guard it with a variable that only the scheduler
(LocalExecutor) or the Celery worker has, as this repository's config/airflow_local_settings.py does.

Airflow imports this module in every process: it imports next to nothing.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from typing import Any, Final

from airflow.plugins_manager import AirflowPlugin

DISTRIBUTION: Final = "perennial"
ENTRY_POINTS: Final = "airflow.plugins"


class _WebApplications:
    """Builds the web application when the API server asks for it; no task pays for FastAPI's imports."""

    def __get__(self, instance: object, owner: type) -> list[dict[str, Any]]:
        from perennial.addresses import PAGES_PREFIX, WEBHOOK_PREFIX
        from perennial_airflow.ui.pages import create_app
        from perennial_airflow.webhook.app import create_app as create_webhook

        app = create_app()
        app.mount(WEBHOOK_PREFIX.removeprefix(PAGES_PREFIX), create_webhook())
        return [{"app": app, "url_prefix": PAGES_PREFIX, "name": "perennial"}]


class PerennialPlugin(AirflowPlugin):
    """Adds the pages that links on tasks lead to, and the webhook for alerts."""

    name = "perennial"
    fastapi_apps: Any = _WebApplications()


def is_registered() -> bool:
    """Whether the installed package offers the plugin to Airflow by itself."""
    try:
        entry_points = distribution(DISTRIBUTION).entry_points
    except PackageNotFoundError:
        return False
    return any(entry_point.group == ENTRY_POINTS for entry_point in entry_points)
