"""A webhook on fakes, and senders that know its keys."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from fastapi import FastAPI
from fastapi.testclient import TestClient

from perennial.alert_ledger import AlertLedger, AlertRecord
from perennial.alert_sender import SigningKey, signed_headers
from perennial.ledger import Ledger
from perennial.testing.clock import FixedClock
from perennial.testing.starter import MemoryStarter
from perennial.testing.store import FolderStore
from perennial_airflow.webhook.app import create_app
from perennial_airflow.webhook.authentication import Credentials
from perennial_airflow.webhook.intake import Webhook
from perennial_airflow.webhook.sns_signature import SnsVerifier
from perennial_airflow.webhook.world import World
from tests.unit.core.world import ROOT, SPEC

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
KEY = SigningKey(name="monitor", secret="a secret of the tests")
NEXT_KEY = SigningKey(name="next", secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
TOKEN = "a token of the tests"
TOPIC = "arn:aws:sns:us-east-1:123456789012:drift"
CREDENTIALS = {
    "keys": {KEY.name: KEY.secret, NEXT_KEY.name: NEXT_KEY.secret},
    "tokens": {"prometheus": TOKEN},
    "sns_topics": [TOPIC],
    "requests_per_s": 1000,
}
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@dataclass
class Gate:
    """`toy` takes alerts, `other` does not; `broken` has a spec that is none."""

    folder: Path
    credentials: Mapping[str, Any] = field(default_factory=lambda: CREDENTIALS)
    certificates: dict[str, bytes] = field(default_factory=dict)
    """What lies at addresses of SNS."""
    visited: list[str] = field(default_factory=list)
    """Addresses that were fetched."""

    def __post_init__(self) -> None:
        self.clock = FixedClock(NOW)
        self.store = FolderStore(self.folder / "s3")
        self.store.add_bucket("bucket")
        self.starter = MemoryStarter(self.clock)
        specs = self.folder / "models"
        specs.mkdir(parents=True)
        for name, triggers in (("toy", {"on_drift": {}}), ("other", {})):
            self.starter.add_dag(name)
            content = yaml.safe_dump({**SPEC, "name": name, "triggers": triggers})
            (specs / f"{name}.yaml").write_text(content, encoding="utf-8")
        (specs / "broken.yaml").write_text("name: broken\n", encoding="utf-8")
        self.world = World(
            store=self.store,
            root=ROOT,
            ledger=Ledger(self.store, ROOT, self.clock),
            starter=self.starter,
            clock=self.clock,
            specs=specs,
        )
        self.webhook = Webhook(
            credentials=lambda: Credentials.parse(self.credentials),
            world=lambda: self.world,
            sns_verifier=SnsVerifier(self._fetch),
        )

    @property
    def app(self) -> FastAPI:
        return create_app(self.webhook)

    @property
    def client(self) -> TestClient:
        return TestClient(self.app, raise_server_exceptions=False)

    def records(self, model: str = "toy") -> list[AlertRecord]:
        """What is on record, newest first."""
        return AlertLedger(self.store, ROOT).list(model)

    def run_ids(self, model: str = "toy") -> list[str]:
        return [run.run_id for run in self.starter.runs(model)]

    def _fetch(self, url: str) -> bytes:
        self.visited.append(url)
        return self.certificates.get(url, b"")


def body_of(**changes: Any) -> bytes:
    content = {"model": "toy", "id": "a-1", "summary": "temp is higher", "raised_at": "2026-03-01T11:00:00Z"}
    return json.dumps({name: value for name, value in {**content, **changes}.items() if value is not None}).encode()


def signed(
    body: bytes, *, key: SigningKey = KEY, message_id: str = "m-1", now: datetime = NOW, **changes: str
) -> dict[str, str]:
    """Headers of a message, with some of them (`webhook_id=…`) made otherwise."""
    headers = signed_headers(key, message_id, body, now=now)
    return {**headers, **{name.replace("_", "-"): value for name, value in changes.items()}}
