"""How often each sender may come: a token bucket each, in this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

BURST_S: Final = 2.0
"""What may come at once: so many seconds' worth, at least 20."""


class RateLimit:
    """Token buckets by sender. There are as many as there are keys, tokens and topics, so nothing is forgotten."""

    def __init__(self, seconds: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._buckets: dict[str, tuple[float, float]] = {}

    def wait_s(self, sender: str, per_s: float) -> float:
        """Take a token and return 0; or take none and return the seconds until there is one."""
        full = max(20.0, per_s * BURST_S)
        with self._lock:
            now = self._seconds()
            left, at = self._buckets.get(sender, (full, now))
            left = min(full, left + (now - at) * per_s)
            taken = left >= 1
            self._buckets[sender] = (left - 1 if taken else left, now)
        return 0.0 if taken else (1 - left) / per_s
