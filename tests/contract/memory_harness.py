"""The deployer in memory, for the suite of all deployers: what passes for the real ones passes for the fake."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from tests.contract.deployers import Crash, Fault, Served

from perennial.domain.traffic import Role
from perennial.errors import DeployerUnavailableError, TerminalError
from perennial.ports import Deployer
from perennial.testing.deployer import MemoryDeployer

_FAULTS: Final = {
    Fault.DOWN: DeployerUnavailableError("down"),
    Fault.THROTTLED: DeployerUnavailableError("slow down"),
    Fault.DENIED: TerminalError("not allowed; grant it"),
}


class MemoryHarness:
    """See `tests.contract.deployers.Harness`. A method is one call to the platform."""

    roles: tuple[Role, ...] = (Role.CANARY, Role.SHADOW)

    def __init__(self) -> None:
        self.memory = MemoryDeployer()
        self.calls = 0
        self._fault: Fault | None = None
        self._crash_at: tuple[int, bool] | None = None

    @property
    def changes(self) -> int:
        return len(self.memory.changes)

    def deployer(self) -> Deployer:
        return _Played(self)  # type: ignore[return-value]

    def settle(self) -> None:
        """All is in force at once."""

    def move_alias(self, model: str, version: str) -> None:
        """It is told its versions."""

    def served(self, model: str) -> Served:
        status = self.memory.status(model)
        if status.champion is None:
            return Served()
        if status.challenger is None or not status.share:
            return Served(answers={status.champion: 100})
        if status.role is Role.SHADOW:
            return Served(answers={status.champion: 100}, copies={status.challenger: status.share})
        answers = {status.champion: 100 - status.share, status.challenger: status.share}
        return Served(answers={version: share for version, share in answers.items() if share})

    @contextmanager
    def play(self, fault: Fault) -> Iterator[None]:
        self._fault = fault
        yield
        self._fault = None

    @contextmanager
    def crash(self, at: int, *, after: bool) -> Iterator[None]:
        self._crash_at = (self.calls + at, after)
        try:
            yield
        finally:
            self._crash_at = None

    def call(self, method: Callable[..., Any], *args: Any) -> Any:
        number, self.calls = self.calls, self.calls + 1
        if self._crash_at == (number, False):
            raise Crash
        if self._fault is not None:
            raise _FAULTS[self._fault]
        result = method(*args)
        if self._crash_at == (number, True):
            raise Crash
        return result


class _Played:
    def __init__(self, harness: MemoryHarness) -> None:
        self._harness = harness

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._harness.memory, name)
        return lambda *args: self._harness.call(method, *args)
