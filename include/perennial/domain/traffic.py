"""Who answers a request while a challenger is tried out on live traffic.

Whoever walks a canary leaves a `TrafficPlan` in the store and renews it; every replica of the scoring service reads it.
A plan is short-lived: if nobody renews it, all requests go to the champion again, so a split never sticks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from enum import StrEnum
from hashlib import blake2b
from typing import Any, Final, Self

from perennial.domain.times import format_time, parse_time

MAX_LIFETIME: Final = timedelta(hours=1)
"""Of a plan: a split that nobody renews ends after this at the latest."""
CLOCK_SKEW: Final = timedelta(minutes=1)
"""How far the clocks of who issues a plan and who reads it may be apart. A plan from a more distant future is not
live: else a wrong clock could make one that stays for years."""


class Role(StrEnum):
    """What a model is to a request."""

    CHAMPION = "champion"
    """Answers."""
    CANARY = "canary"
    """The challenger, answering in the champion's place."""
    SHADOW = "shadow"
    """The challenger, scoring a copy. The champion answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficPlan:
    """What share of a model's requests a challenger gets, and until when."""

    model: str
    challenger: str
    """Its registry version."""
    role: Role
    """CANARY or SHADOW."""
    share: float
    """Percent of the keys, in [0, 100]; for a shadow, of those whose requests are copied."""
    rollout_id: str
    """Picks the keys as their salt: the same throughout a canary, so that who was in stays in."""
    issued_at: datetime
    expires_at: datetime

    def __post_init__(self) -> None:
        for name in ("model", "challenger", "rollout_id"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value:
                raise ValueError(f"traffic plan: {name} must be a text that is not empty, got {value!r}")
        if self.role not in (Role.CANARY, Role.SHADOW):
            raise ValueError(f"traffic plan: role must be canary or shadow, got {self.role!r}")
        if isinstance(self.share, bool) or not isinstance(self.share, int | float) or not 0 <= self.share <= 100:
            raise ValueError(f"traffic plan: share must be a number in [0, 100] percent, got {self.share!r}")
        if self.issued_at.tzinfo is None or self.expires_at.tzinfo is None:
            raise ValueError("traffic plan: issued_at and expires_at must have a timezone")
        lifetime = self.expires_at - self.issued_at
        if not timedelta(0) < lifetime <= MAX_LIFETIME:
            raise ValueError(f"traffic plan: must expire 0 to {MAX_LIFETIME} after issued_at, got {lifetime}")

    def is_live(self, now: datetime) -> bool:
        """Whether the plan counts at this time: in [issued_at - CLOCK_SKEW, expires_at)."""
        return self.issued_at <= now + CLOCK_SKEW and now < self.expires_at

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; times as ISO 8601 with `Z`."""
        return {key: format_time(v) if isinstance(v, datetime) else v for key, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """Inverse of `to_dict`, for any parsed JSON.

        Raises:
            ValueError: it is not such an object; says which field, what came and what is allowed.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(values, Mapping) or set(values) != names:
            found = sorted(map(str, values)) if isinstance(values, Mapping) else type(values).__name__
            raise ValueError(f"traffic plan: must be an object with the fields {sorted(names)}, got {found}")
        given = dict(values)
        try:
            given["role"] = Role(given["role"])
        except ValueError:
            raise ValueError(f"traffic plan: role must be canary or shadow, got {given['role']!r}") from None
        for name in ("issued_at", "expires_at"):
            try:
                given[name] = parse_time(given[name])
            except (TypeError, ValueError, OverflowError):
                raise ValueError(f"traffic plan: {name} must be an ISO 8601 time, got {given[name]!r}") from None
        return cls(**given)


def plan_uri(root: str, model: str) -> str:
    """Where a model's plan lies in the store; `root` is `s3://bucket/prefix`."""
    return f"{root}/traffic/{model}.json"


def bucket(salt: str, key: str) -> float:
    """Where a key stands in [0, 100), evenly spread; a share takes the keys below it, so a larger one keeps them all.

    The upper 53 bits of the 8-byte BLAKE2b digest (RFC 7693), read big-endian, of `<length of salt>:<salt><key>` in
    UTF-8, divided by 2**53 and times 100. The same in every process and on every machine.
    """
    text = f"{len(salt)}:{salt}{key}"
    # A lone surrogate, which JSON can carry, is a key as good as any other.
    digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return math.ldexp(int.from_bytes(digest, "big") >> 11, -53) * 100


def role_for(plan: TrafficPlan | None, key: str, now: datetime) -> Role:
    """What the challenger of the plan is to the request with this key; CHAMPION: nothing.

    CANARY: it answers. SHADOW: the champion answers, and the challenger scores a copy.
    """
    if plan is None or not plan.is_live(now) or bucket(plan.rollout_id, key) >= plan.share:
        return Role.CHAMPION
    return plan.role
