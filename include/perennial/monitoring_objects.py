"""Where the monitor's reports and the alerts on their way lie in the store.

monitoring/<model>/<window end as 20260102T030405Z>/report.json   what a window looked like; written once
monitoring/<model>/<window end>/page.html                         the same for people
monitoring/<model>/<window end>/done.json                         mark: page and alerts of the report are written
monitoring-outbox/<model>/<alert key>.json                        an alert that is to be sent; deleted afterwards
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from perennial.domain.alert import Alert
from perennial.domain.fingerprint import canonical_json, sha256_of
from perennial.domain.times import parse_time
from perennial.errors import IntegrityError
from perennial.json_objects import JSON_TYPE, put_once, stored_object
from perennial.ports import ObjectStore

_log = logging.getLogger(__name__)
_HTML: Final = "text/html; charset=utf-8"
_REPORT: Final = "/report.json"
_FOLDER: Final = "%Y%m%dT%H%M%SZ"
_NEEDED: Final = (
    "window_start",
    "window_end",
    "rows",
    "summary",
    "champion",
    "versions",
    "service",
    "data_drift",
    "prediction_drift",
    "performance",
    "signals",
    "alerts",
    "states",
    "history",
)
"""Of a report, by whoever looks next."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredReport:
    """A report that is in the store."""

    content: Mapping[str, Any]
    uri: str
    sha256: str

    @property
    def window_end(self) -> datetime:
        """Of the window that it is about."""
        return parse_time(str(self.content["window_end"]))

    @property
    def page_uri(self) -> str:
        """Of its page, which may not be written yet."""
        return self.uri.removesuffix(_REPORT) + "/page.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxItem:
    """An alert that is to be sent."""

    uri: str
    alert: Alert
    signal: str
    retrain: bool
    """Whether the webhook gets it, which may start a run; else it is for people only."""
    page_uri: str
    delivery: Mapping[str, Any]
    """What whoever sends it has noted of how far that has got; empty at first."""
    content: Mapping[str, Any]
    """The whole object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitoringObjects:
    """One model's."""

    store: ObjectStore
    root: str
    """`s3://bucket/prefix`."""
    model: str

    def newest(self, now: datetime) -> StoredReport | None:
        """The report of the newest window; None: there is none. Half a report, of a crash, is as good as none.

        Raises:
            IntegrityError: it is JSON, and no report.
        """
        today = now.astimezone(UTC)
        month = today.replace(day=1)
        # Reports pile up, up to thousands a day; nearly always the newest is of this day or the one before.
        days = (f"{today:%Y%m%d}", f"{today - timedelta(days=1):%Y%m%d}")
        for prefix in (*days, f"{month:%Y%m}", f"{month - timedelta(days=1):%Y%m}", ""):
            listed = [info.uri for info in self.store.list(self._folder + prefix) if info.uri.endswith(_REPORT)]
            for uri in reversed(listed):
                if (found := self._report(uri)) is not None:
                    return found
        return None

    def report(self, window_end: datetime) -> StoredReport | None:
        """The report of one window; None: there is none."""
        return self._report(self._uri(window_end, _REPORT))

    def put_report(self, window_end: datetime, report: Mapping[str, Any]) -> StoredReport:
        """Store it, unless there is one; the one that counts."""
        uri = self._uri(window_end, _REPORT)
        content = put_once(self.store, uri, canonical_json(report))
        return StoredReport(content=json.loads(content), uri=uri, sha256=sha256_of(content))

    def put_page(self, report: StoredReport, page: bytes) -> None:
        """The same again changes nothing."""
        self.store.write(report.page_uri, page, content_type=_HTML)

    def put_alert(self, alert: Alert, *, signal: str, retrain: bool, page_uri: str) -> None:
        """Into the outbox, unless it is there: whoever sends it may have noted there how far that has got."""
        content = {"alert": alert.to_dict(), "signal": signal, "retrain": retrain, "page_uri": page_uri}
        put_once(self.store, f"{self._outbox}{alert.key}.json", canonical_json(content))

    def is_done(self, report: StoredReport) -> bool:
        """Whether page and alerts of a report are written: alerts that were sent since must not come back."""
        return stored_object(self.store, self._uri(report.window_end, "/done.json")) is not None

    def mark_done(self, report: StoredReport) -> None:
        """Once page and alerts are written."""
        content = canonical_json({"report_sha256": report.sha256})
        self.store.write(self._uri(report.window_end, "/done.json"), content, content_type=JSON_TYPE)

    def outbox(self) -> tuple[OutboxItem, ...]:
        """What is to be sent, oldest first; what is no alert is left there, with a warning in the log."""
        items = [self._item(info.uri) for info in self.store.list(self._outbox)]
        there = [item for item in items if item is not None]
        return tuple(sorted(there, key=lambda item: (item.alert.raised_at, item.alert.alert_id)))

    def remember(self, item: OutboxItem, delivery: Mapping[str, Any]) -> None:
        """Note in the outbox how far the sending has got."""
        content = canonical_json({**item.content, "delivery": dict(delivery)})
        self.store.write(item.uri, content, content_type=JSON_TYPE)

    def delivered(self, item: OutboxItem) -> None:
        """Take it out of the outbox."""
        self.store.delete(item.uri)

    @property
    def _folder(self) -> str:
        return f"{self.root}/monitoring/{self.model}/"

    @property
    def _outbox(self) -> str:
        return f"{self.root}/monitoring-outbox/{self.model}/"

    def _uri(self, window_end: datetime, name: str) -> str:
        return f"{self._folder}{window_end.astimezone(UTC):{_FOLDER}}{name}"

    def _report(self, uri: str) -> StoredReport | None:
        if stored_object(self.store, uri) is None:
            return None
        content = self.store.read(uri)
        found = json.loads(content)
        lacking = [key for key in _NEEDED if key not in found]
        if lacking or not _is_of(found["window_end"], uri):
            what = f"it lacks {', '.join(lacking)}" if lacking else f"its window_end is {found['window_end']!r}"
            raise IntegrityError(
                f"{uri} is no report: {what}. Somebody changed it: put it back, or delete it, and the alarms begin anew"
            )
        return StoredReport(content=found, uri=uri, sha256=sha256_of(content))

    def _item(self, uri: str) -> OutboxItem | None:
        found = stored_object(self.store, uri)
        try:
            if found is None:
                raise ValueError("it is no JSON object")
            return OutboxItem(
                uri=uri,
                alert=Alert.from_dict(found["alert"]),
                signal=str(found["signal"]),
                retrain=found["retrain"] is True,
                page_uri=str(found["page_uri"]),
                delivery=found.get("delivery") or {},
                content=found,
            )
        except (KeyError, ValueError) as error:
            _log.warning("%s is passed over: %s", uri, error)
            return None


def _is_of(window_end: Any, uri: str) -> bool:
    """Whether a report lies where that of a window belongs."""
    try:
        return f"/{parse_time(str(window_end)).astimezone(UTC):{_FOLDER}}/" in uri
    except ValueError:
        return False
