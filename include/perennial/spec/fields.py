"""Types that several spec classes share: durations, names, and the base class with its strictness."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema

DURATION_PATTERN: Final = r"^(\d+)(s|m|h|d|w)$"
_CRON_FIELDS: Final = (
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day of the month", 1, 31),
    ("month", 1, 12),
    ("day of the week", 0, 7),
)
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class SpecPart(BaseModel):
    """Base of every spec class: immutable, no unknown fields, no silent conversion of one type to another."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def parse_duration(value: Any) -> timedelta:
    """`90s`, `15m`, `6h`, `14d` or `2w` as a timedelta.

    Raises:
        ValueError: the text is not a whole number followed by one of the units.
    """
    if isinstance(value, timedelta):
        return value
    match = re.match(DURATION_PATTERN, value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("a duration is a whole number and a unit, such as 90s, 15m, 6h, 14d or 2w")
    try:
        return timedelta(**{_UNITS[match[2]]: int(match[1])})
    except OverflowError as error:
        raise ValueError("a duration is at most 999999999d") from error


def format_duration(value: timedelta) -> str:
    """The shortest text that `parse_duration` reads back as `value` (whole seconds)."""
    seconds = int(value.total_seconds())
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN, "examples": ["6h", "14d"]}),
]

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
"""Lower-case letters, digits and underscores: it becomes part of DAG ids, S3 keys and registry names."""

Column = Annotated[str, Field(min_length=1, max_length=255)]
Columns = Annotated[tuple[Column, ...], Field(strict=False)]
"""YAML has lists only, so a list is taken for a tuple here."""


def _five_cron_fields(value: str) -> str:
    if not re.fullmatch(r"(?:[\d*/,A-Za-z#L-]+\s+){4}[\d*/,A-Za-z#L-]+", value.strip()):
        raise ValueError("a cron expression has five fields, such as '0 2 * * *' for 02:00 UTC each night")
    for (name, low, high), text in zip(_CRON_FIELDS, value.split(), strict=False):
        wrong = [found for found in re.findall(r"(?<![/#\d])\d+", text) if not low <= int(found) <= high]
        if wrong:
            raise ValueError(f"{name} {wrong[0]} must be between {low} and {high}")
    return value


Cron = Annotated[str, AfterValidator(_five_cron_fields)]
"""Cron expression of five fields, in UTC."""
