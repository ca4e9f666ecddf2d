"""What the adapters turn a sender's message into, whatever its form, and what they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from perennial.addresses import without_credentials
from perennial.domain.alert import MAX_EVIDENCE_BYTES, MAX_ID_LENGTH, one_line
from perennial.domain.fingerprint import canonical_json, digest_of
from perennial.domain.times import parse_time

MODEL_NAMES: Final = ("perennial_model", "model")
"""Labels, fields and dimensions that name the model; the first one that is there counts."""
MAX_SIGNALS: Final = 100
"""Alerts in one message."""


class BadMessageError(ValueError):
    """A message is not what its sender's documentation says; the text is for the sender."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """One alert in a message."""

    model: str | None
    """None: the message names none."""
    alert_id: str
    summary: str
    raised_at: datetime | None = None
    """By the sender's clock, aware; None: not told."""
    source: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    wanted: bool = True
    """False: it asks for nothing, such as an alert that is over."""


def named_model(*places: Any) -> str | None:
    """The model that the first of the mappings to name one names."""
    for place in places:
        if isinstance(place, Mapping):
            for name in MODEL_NAMES:
                if isinstance(place.get(name), str) and place[name]:
                    return str(place[name])
    return None


def joined_id(*parts: str) -> str:
    """One id out of several texts, as many for each sender: other texts give another id.

    They themselves, with the colons of all but the last one escaped, where that is short, printable, and tells no
    password; else their digest.
    """
    *before, last = parts
    text = ":".join([*(part.replace("%", "%25").replace(":", "%3A") for part in before), last])
    shown = 0 < len(text) <= MAX_ID_LENGTH and text.isprintable() and cleaned(parts) == list(parts)
    return text if shown else f"sha256:{digest_of(parts)}"


def first_line(*candidates: Any) -> str:
    """The first text that says anything, as a line that fits a summary; empty if there is none."""
    # Cleaned before it is cut: half an address with a password could not be told for one.
    texts = (one_line(without_credentials(candidate)) for candidate in candidates if isinstance(candidate, str))
    return next((text for text in texts if text), "")


def time_or_none(value: Any) -> datetime | None:
    """An aware UTC time, or None where there is none that makes sense: senders put the year 1 for "not known"."""
    try:
        moment = parse_time(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return moment if moment >= datetime(2000, 1, 1, tzinfo=UTC) else None


def fitted(evidence: Mapping[str, Any]) -> dict[str, Any]:
    """Without empty values, and without the largest parts until the rest fits into the ledger."""
    kept = {name: value for name, value in evidence.items() if value not in (None, "", {}, [])}
    sizes = {name: len(canonical_json(value)) for name, value in kept.items()}
    while kept and len(canonical_json(kept)) > MAX_EVIDENCE_BYTES - 64:
        largest = max(kept, key=lambda name: sizes[name])
        del kept[largest]
        kept["left_out"] = True
        sizes["left_out"] = 0
    return kept


def require(condition: bool, said: str) -> None:
    """Raise BadMessageError unless the condition holds."""
    if not condition:
        raise BadMessageError(said)


def require_few(alerts: Sequence[Any], how: str) -> None:
    """Raise BadMessageError if there are too many to be recorded before the sender stops waiting."""
    require(len(alerts) <= MAX_SIGNALS, f"{len(alerts)} alerts in one message; at most {MAX_SIGNALS}: {how}")


def cleaned(value: Any) -> Any:
    """Without users and passwords in the addresses that are anywhere in it: what is kept is shown to people."""
    if isinstance(value, str):
        return without_credentials(value)
    if isinstance(value, Mapping):
        return {cleaned(str(name)): cleaned(part) for name, part in value.items()}
    return [cleaned(part) for part in value] if isinstance(value, (list, tuple)) else value
