"""What people get, through the providers' own notifiers, from servers that keep what they were sent."""

from __future__ import annotations

import json
import socketserver
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email import message_from_string
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from perennial.alert_delivery import AlertMessage
from perennial.domain.alert import Alert
from perennial.errors import TerminalError
from perennial.spec.monitoring import EmailNotice, SlackNotice, WebhookNotice
from perennial_airflow.notifiers import tell
from tests.unit.airflow.test_hooks import connect

pytestmark = pytest.mark.airflow
AT = datetime(2026, 1, 2, tzinfo=UTC)
NASTY = "<!channel> {{ conn.perennial_s3.password }} & <b>temp</b>"
MESSAGE = AlertMessage(
    alert=Alert(
        model="toy",
        alert_id="data_drift:1",
        source="monitor",
        summary=NASTY,
        raised_at=AT,
        received_at=AT,
        evidence={"columns": ["temp"]},
    ),
    signal="data_drift",
    next_step="A retraining was started.",
    page_url="https://airflow.example/page.html",
    run_url="",
    outcome=None,
)


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[int]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Http(ThreadingHTTPServer):
    """Keeps path, headers and body of each POST; answers as Slack's API does."""

    def __init__(self, status: int = 200) -> None:
        self.posts: list[tuple[str, Any, Any]] = []
        posts = self.posts

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                posts.append((self.path, self.headers, body))
                content = b'{"ok": true}'
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_arguments: Any) -> None:
                """Silence."""

        super().__init__(("127.0.0.1", 0), Handler)


class Smtp(socketserver.ThreadingTCPServer):
    """Takes any mail, and keeps it."""

    def __init__(self) -> None:
        self.mails: list[str] = []
        mails = self.mails

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.wfile.write(b"220 here\r\n")
                while line := self.rfile.readline():
                    command = line[:4].upper()
                    self.wfile.write(b"354 go on\r\n" if command == b"DATA" else b"250 fine\r\n")
                    if command == b"DATA":
                        content = b"".join(iter(self.rfile.readline, b".\r\n"))
                        mails.append(content.decode())
                        self.wfile.write(b"250 taken\r\n")
                    if command == b"QUIT":
                        return

        super().__init__(("127.0.0.1", 0), Handler)


def test_slack_gets_the_message_with_nothing_that_slack_or_jinja_would_read(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Http()
    with serving(server) as port:
        extra = {"base_url": f"http://127.0.0.1:{port}/api/"}
        connect(monkeypatch, "slack_of_ops", conn_type="slack", password="xoxb-1", extra=extra)
        tell(SlackNotice(kind="slack", connection="slack_of_ops", channel="#ops"), MESSAGE, {})
    [(path, headers, body)] = server.posts
    assert path == "/api/chat.postMessage"
    assert headers["authorization"] == "Bearer xoxb-1"
    assert body["channel"] == "#ops"
    assert body["text"].splitlines() == [
        "*toy: data drift*",
        "&lt;!channel&gt; {{ conn.perennial_s3.password }} &amp; &lt;b&gt;temp&lt;/b&gt;",
        "A retraining was started.",
        "Report: https://airflow.example/page.html",
    ]


def test_mail_has_a_subject_of_one_line_and_no_markup_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Smtp()
    with serving(server) as port:
        extra = {"disable_ssl": True, "disable_tls": True, "from_email": "perennial@example.com"}
        connect(monkeypatch, "mail", conn_type="smtp", host="127.0.0.1", port=port, extra=extra)
        tell(EmailNotice(kind="email", connection="mail", to=("ada@example.com", "bob@example.com")), MESSAGE, {})
    [mail] = [message_from_string(text) for text in server.mails]
    assert mail["To"] == "ada@example.com, bob@example.com"
    assert " ".join(str(mail["Subject"]).split()) == f"toy: data drift: {NASTY}"
    [html] = [part for part in mail.walk() if part.get_content_type() == "text/html"]
    content = bytes(html.get_payload(decode=True)).decode()  # type: ignore[arg-type]
    assert "<p>&lt;!channel&gt; {{ conn.perennial_s3.password }} &amp; &lt;b&gt;temp&lt;/b&gt;</p>" in content
    assert "<p>A retraining was started.</p>" in content


def test_webhook_gets_the_alert_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Http()
    with serving(server) as port:
        connect(monkeypatch, "pager", conn_type="http", host=f"http://127.0.0.1:{port}/hook", password=None)
        tell(WebhookNotice(kind="webhook", connection="pager"), MESSAGE, {})
    [(path, _, body)] = server.posts
    assert path.startswith("/hook")
    assert body == MESSAGE.to_dict()
    assert body["evidence"] == {"columns": ["temp"]}


def test_server_that_refuses_the_message_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Http(status=500)
    with serving(server) as port:
        connect(monkeypatch, "pager", conn_type="http", host=f"http://127.0.0.1:{port}")
        with pytest.raises(Exception, match="500"):
            tell(WebhookNotice(kind="webhook", connection="pager"), MESSAGE, {})


def test_provider_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("airflow.providers.slack")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "airflow.providers.slack", None)
    with pytest.raises(TerminalError, match="apache-airflow-providers-slack"):
        tell(SlackNotice(kind="slack", channel="#ops"), MESSAGE, {})
