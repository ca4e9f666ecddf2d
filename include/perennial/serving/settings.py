"""The scoring service's limits and times, in one place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Self

from perennial.errors import TerminalError

PREFIX: Final = "PERENNIAL_SCORING_"
"""Of the environment's variables: `PERENNIAL_SCORING_PORT` sets `port`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingSettings:
    """Each may be set in the environment. The defaults fit a replica of one or two cores."""

    host: str = "127.0.0.1"
    port: int = 8000
    """0: any free one."""
    model: str = ""
    """Of `version`, where the command line names no model."""
    version: str = ""
    """The one version that is served, whatever the alias and the traffic plan say; empty: they say which."""
    default_model: str = ""
    """Whom POST /invocations asks, if there are several models."""
    poll_interval_s: float = 1.0
    """How often the alias `champion` and the traffic plan of each model are looked at."""
    request_timeout_s: float = 10.0
    """From the body's first byte to the answer; then 408 or 504. A canary gets half of it, the champion the rest."""
    hang_after_s: float = 30.0
    """A model that is in one prediction for longer counts as hanging: no request is given to it, and /ping says 503."""
    max_body_bytes: int = 16 * 1024 * 1024
    max_bytes_in_flight: int = 64 * 1024 * 1024
    """Of all bodies that are in memory; then 429. Parsed they take about ten times as much."""
    max_batch_rows: int = 1024
    """Requests are scored together up to this many rows; a request with more is scored alone."""
    max_queue_rows: int = 8192
    """Rows that may wait for one model; then 429. A request with more is taken if nothing waits."""
    cached_versions: int = 3
    """How many versions of each model stay on the local disk beside those in use."""
    drain_s: float = 2.0
    """After SIGTERM: how long /ping says 503 while requests are still taken, so that a load balancer sees it."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            lowest = 0 if field.name in ("port", "cached_versions", "drain_s") else 1e-3
            if not isinstance(value, str) and not lowest <= value < float("inf"):
                raise TerminalError(f"{field.name} is {value}, allowed is at least {lowest:g}")
        if self.port > 65_535:
            raise TerminalError(f"port is {self.port}, allowed is at most 65535")

    @classmethod
    def from_environment(cls, values: Mapping[str, str], **given: Any) -> Self:
        """Settings from `PERENNIAL_SCORING_*`; what is given and not None counts more.

        Raises:
            TerminalError: a variable is unknown, no number, or out of its range.
        """
        types: dict[str, Any] = {field.name: type(field.default) for field in fields(cls)}
        found: dict[str, Any] = {}
        for key, text in values.items():
            name = key.removeprefix(PREFIX).lower()
            if not key.startswith(PREFIX):
                continue
            if name not in types:
                known = ", ".join(f"{PREFIX}{known.upper()}" for known in types)
                raise TerminalError(f"{key} is no setting of the scoring service; there are {known}")
            try:
                found[name] = types[name](text)
            except ValueError:
                raise TerminalError(f"{key} is {text!r}, expected a number") from None
        return cls(**found | {name: value for name, value in given.items() if value is not None})
