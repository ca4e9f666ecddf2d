"""What a deployer's suite needs of a platform: a harness a deployer, and the models that are deployed.

Each harness plays its platform, or holds a fake of it that speaks its protocol. `tests/contract/test_deployers.py` runs
the same tests against all of them; add yours to `HARNESSES` there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, Protocol

from perennial.domain.references import ModelRef
from perennial.domain.traffic import Role
from perennial.errors import DeployerUnavailableError
from perennial.ports import Deployer, RegisteredVersion, Split

MODEL: Final = "flights_delay"
MANY: Final = 12
"""Calls that are enough for every step on every platform."""


class Fault(StrEnum):
    """What every call to the platform meets while it is played."""

    DOWN = "down"
    """No answer, or a server error, also after retries."""
    THROTTLED = "throttled"
    DENIED = "denied"
    """The credentials do not allow it."""


class Crash(BaseException):
    """The process dies. No `except Exception` sees it."""


@dataclass(frozen=True)
class Served:
    """What the platform does with a model's requests, told by the platform itself and not by the deployer."""

    answers: Mapping[str, float] = field(default_factory=dict)
    """Percent of the requests that each version answers, 0 left out; empty: there is nobody to answer."""
    copies: Mapping[str, float] = field(default_factory=dict)
    """Percent of the requests that each version scores a copy of, 0 left out."""


class Harness(Protocol):
    """A platform, and a way to a deployer on it. One is made for each test."""

    roles: tuple[Role, ...]
    """What a challenger can be here."""

    @property
    def calls(self) -> int:
        """How many calls deployers made to the platform so far, reading ones included."""
        ...

    @property
    def changes(self) -> int:
        """How many of them were to change something."""
        ...

    def deployer(self) -> Deployer:
        """A new one that knows nothing of earlier ones, as another process has it."""
        ...

    def settle(self) -> None:
        """Let the platform finish what it was asked for."""
        ...

    def move_alias(self, model: str, version: str) -> None:
        """Whom the registry's alias `champion` names now; for platforms that follow it, else nothing."""
        ...

    def served(self, model: str) -> Served:
        """What is in force now."""
        ...

    def play(self, fault: Fault) -> AbstractContextManager[None]:
        """Every call meets the fault meanwhile, and has no effect."""
        ...

    def crash(self, at: int, *, after: bool) -> AbstractContextManager[None]:
        """Raise `Crash` out of the deployer at the call of this number, from 0: before its effect, or after it."""
        ...


@dataclass(frozen=True)
class HarnessMaker:
    """How to come by a harness in a test; `fixture` names a pytest fixture that gives a new one."""

    name: str
    fixture: str
    roles: tuple[Role, ...] = (Role.CANARY, Role.SHADOW)


def registered(model: str, version: int) -> RegisteredVersion:
    """A version with references that look like real ones."""
    start = datetime(2013, 1, 1, tzinfo=UTC)
    trained = ModelRef(
        model_uri=f"models:/m-{version:032x}",
        run_id=f"{version:032x}",
        digest=f"{version:064x}",
        fingerprint="f" * 64,
        snapshot_sha256="5" * 64,
        training_start=start,
        training_end=datetime(2013, 4, 1, tzinfo=UTC),
        keys_sha256="6" * 64,
    )
    return RegisteredVersion(name=model, version=str(version), model=trained)


def split_of(
    model: str, *, champion: int = 3, challenger: int = 4, role: Role = Role.CANARY, rollout: str = "a" * 64
) -> Split:
    """A challenger beside a champion."""
    return Split(
        champion=registered(model, champion),
        challenger=registered(model, challenger),
        role=role,
        rollout_id=rollout,
    )


def carry_out(harness: Harness, act: Callable[[Deployer], None]) -> None:
    """Call until the platform took it, as those do who look again after a transient error; then let it settle.

    Each call is by a deployer of its own, as after a restart.
    """
    for _ in range(MANY):
        try:
            act(harness.deployer())
        except DeployerUnavailableError:
            harness.settle()
        else:
            harness.settle()
            return
    raise AssertionError(f"not taken after {MANY} calls")


def with_champion(harness: Harness, model: str = MODEL, version: int = 3) -> None:
    harness.move_alias(model, str(version))
    carry_out(harness, lambda deployer: deployer.promote(registered(model, version)))


def with_split(harness: Harness, share: float, role: Role = Role.CANARY, model: str = MODEL) -> None:
    """Version 4 beside the champion 3."""
    with_champion(harness, model)
    carry_out(harness, lambda deployer: deployer.deploy(split_of(model, role=role)))
    if share:
        carry_out(harness, lambda deployer: deployer.shift(split_of(model, role=role), share))


def answered(**percent: float) -> Served:
    """`v3=75, v4=25`."""
    return Served(answers={name.removeprefix("v"): value for name, value in percent.items()})
