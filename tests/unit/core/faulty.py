"""A store and a registry that fail at a chosen call: the process dies there, or the server does not answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from perennial.errors import RegistryUnavailableError, StoreUnavailableError

STORE_EFFECTS: Final = ("write", "upload", "download", "delete")
REGISTRY_EFFECTS: Final = (
    *("log_training", "register", "tag_version", "log_text", "point_alias", "annotate"),
    "log_monitoring",
)
STORE_CALLS: Final = (*STORE_EFFECTS, "list", "head", "read")
REGISTRY_READS: Final = ("find_training", "open_model", "champion", "champion_version", "version", "version_tags")
REGISTRY_CALLS: Final = (*REGISTRY_EFFECTS, *REGISTRY_READS, "load", "run_url")


class ProcessDied(BaseException):
    """No `except Exception` sees it, and nothing of the process has an effect after it."""


@dataclass
class Fault:
    """Strikes once, at call number `at` (1 is the first): before it has its effect, or after."""

    at: int
    after: bool
    fatal: bool
    """The process dies, and every later call of it dies too; else the one call fails as transient."""
    calls: list[str] = field(default_factory=list)
    struck: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def around(self, name: str, call: Callable[[], Any], error: Callable[[], BaseException]) -> Any:
        """Make the call, unless this is where the fault strikes."""
        with self._lock:  # files are copied by several threads
            if self.struck and self.fatal:
                raise ProcessDied
            self.calls.append(name)
            strikes = len(self.calls) == self.at and not self.struck
            self.struck = self.struck or strikes
        if strikes and not self.after:
            raise error()
        result = call()
        if strikes:
            raise error()
        return result


class Faulty:
    """Hands every call on to `inner`; those named in `watched` through the fault."""

    def __init__(self, inner: Any, watched: tuple[str, ...], fault: Fault, error: Callable[[], BaseException]) -> None:
        self._inner, self._watched, self._fault, self._error = inner, watched, fault, error

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        if name not in self._watched:
            return method

        def call(*args: Any, **kwargs: Any) -> Any:
            def made() -> Any:
                given = method(*args, **kwargs)
                return list(given) if isinstance(given, Iterator) else given

            answer = self._fault.around(name, made, self._error)
            return iter(answer) if name == "list" else answer

        return call


def crashing(store: Any, registry: Any, fault: Fault) -> tuple[Any, Any]:
    """Both, with the process dying around one of their effects."""
    return (
        Faulty(store, STORE_EFFECTS, fault, ProcessDied),
        Faulty(registry, REGISTRY_EFFECTS, fault, ProcessDied),
    )


def unavailable(store: Any, registry: Any, fault: Fault) -> tuple[Any, Any]:
    """Both, with one call of either not being answered."""
    return (
        Faulty(store, STORE_CALLS, fault, lambda: StoreUnavailableError("503 SlowDown")),
        Faulty(registry, REGISTRY_CALLS, fault, lambda: RegistryUnavailableError("MLflow did not answer")),
    )
