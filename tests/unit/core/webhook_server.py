"""A webhook on the loopback interface that knows one key, and answers as a test wants it to."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from perennial.alert_sender import SigningKey

SECRET = "a secret of the tests"
KEY = SigningKey(name="monitor", secret=SECRET)
AT = "2026-01-02T03:04:05Z"
STARTED = {
    "fate": "started",
    "reason": "no run was under way",
    "rule": "",
    "at": AT,
    "run_id": "drift__1",
    "until": None,
}
REFUSED = {**STARTED, "fate": "refused", "reason": "the DAG is paused", "rule": "paused", "run_id": None}
DEFERRED = {**STARTED, "fate": "deferred", "reason": "cool-down", "rule": "cooldown", "run_id": None, "until": AT}


@dataclass
class Webhook:
    """What it answers, and what it was sent."""

    url: str = ""
    status: int = 202
    outcome: dict[str, Any] = field(default_factory=lambda: STARTED)
    due: list[dict[str, Any]] = field(default_factory=list)
    """What a tick comes to."""
    raw: bytes | None = None
    """An answer of no webhook."""
    headers: dict[str, str] = field(default_factory=dict)
    received: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """Path and body of each message whose signature is right."""

    def answer(self, path: str, headers: Any, body: bytes) -> tuple[int, dict[str, Any]]:
        if not _signed(headers, body):
            return 401, {"message": "unauthorized"}
        content = json.loads(body)
        self.received.append((path, content))
        if self.status not in (200, 202) and self.outcome["fate"] != "refused":
            return self.status, {"message": "as the test wants it"}
        if path.endswith("/tick"):
            return 200, {"outcomes": self.due}
        return self.status, {"model": content["model"], "id": content.get("id"), "outcome": self.outcome}


def _signed(headers: Any, body: bytes) -> bool:
    """As Standard Webhooks has it, and not by the code under test."""
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    digest = base64.b64encode(hmac.new(SECRET.encode(), content, hashlib.sha256).digest()).decode()
    fresh = abs(datetime.now(UTC).timestamp() - int(headers["webhook-timestamp"])) < 300
    return fresh and headers["webhook-signature"] == f"v1,{digest}"


@contextmanager
def a_webhook() -> Iterator[Webhook]:
    webhook = Webhook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            status, content = webhook.answer(self.path, self.headers, body)
            sent = json.dumps(content).encode() if webhook.raw is None else webhook.raw
            self.send_response(status)
            for name, value in {**webhook.headers, "content-length": str(len(sent))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, *_arguments: Any) -> None:
            """Silence."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    webhook.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield webhook
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
