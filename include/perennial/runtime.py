"""Wires the ports' real adapters together. The only place that knows which adapter serves which port."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from perennial.champion_door import ChampionDoor
from perennial.ledger import Ledger
from perennial.ports import Clock, ModelRegistry, ObjectStore, Validator
from perennial.settings import Settings

if TYPE_CHECKING:
    import boto3


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """Everything that a cycle needs of the world."""

    store: ObjectStore
    registry: ModelRegistry
    validator: Validator
    clock: Clock
    ledger: Ledger
    root: str
    """`s3://bucket/prefix` below which Perennial keeps everything it writes."""
    specs: Path
    """Folder of the specs; suites and users' code are found from it."""
    import_roots: tuple[Path, ...]
    airflow_url: str = ""
    """Address of Airflow's web server, for links to pages; empty if it is not known."""

    @property
    def door(self) -> ChampionDoor:
        """To production."""
        return ChampionDoor(
            store=self.store, root=self.root, registry=self.registry, ledger=self.ledger, clock=self.clock
        )


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Aware, UTC."""
        return datetime.now(UTC)


def build_runtime(settings: Settings, *, session: boto3.Session | None = None) -> Runtime:
    """The real thing. Credentials come from `session`, else from boto3's and MLflow's own look-up."""
    from perennial.adapters.great_expectations import GreatExpectationsValidator
    from perennial.adapters.mlflow_registry import MlflowRegistry
    from perennial.adapters.s3 import S3Store

    store = S3Store.from_session(session, endpoint_url=settings.s3_endpoint)
    return Runtime(
        store=store,
        registry=MlflowRegistry(settings.mlflow_tracking_uri),
        validator=GreatExpectationsValidator(),
        clock=SystemClock(),
        ledger=Ledger(store, settings.store, SystemClock()),
        root=settings.store,
        specs=settings.specs,
        import_roots=settings.import_roots,
        airflow_url=settings.airflow_url,
    )
