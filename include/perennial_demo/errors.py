"""What can go wrong while the demo's services start. The message is all that the terminal shows."""

from __future__ import annotations


class DemoError(Exception):
    """The demo cannot go on; the message says why and what to do next."""


class PortError(DemoError):
    """A port is not a number, is used twice, or is held by another program."""


class ServiceError(DemoError):
    """A service died, or was not healthy in time."""


class AirflowApiError(DemoError):
    """Airflow's REST API refused a request, or a run did not end in time."""
