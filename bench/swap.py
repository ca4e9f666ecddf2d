"""The champion changes 20 times under constant load: does a request fail, or have to wait?

Starts S3 and MLflow (free ports, a temporary PERENNIAL_HOME), registers six versions of `flights_delay` on different
data, and `perennial serve` as shipped. Six, so that each new champion has left the service's cache and is downloaded,
verified, loaded and warmed up as if it were new. A client in a process of its own asks at a constant rate, whatever is
answered: a request that waits for a free connection is late from the moment it was due. Every few seconds the alias
`champion` is moved in MLflow, and each answer is compared with what the version that it names predicts for its row.

A swap lasts from just before the alias is moved until a second after the last answer of another version; all other
time is steady. Both kinds alternate, so that what else the machine does meets both. Last line: one JSON object; `value`
is the 99th percentile during swaps, `baseline` the steady one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, Final

import numpy as np

from scoring.load import Answer, bodies_of, drive
from scoring.services import MODEL, Storage, asked_rows, register, storage

VERSIONS: Final = 6
AFTER_S: Final = 1.0
"""The old version is being dropped: still part of the swap."""
TARGET_RATIO, TARGET_SWITCH_S = 2.0, 5.0
TOLERANCE: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Swap:
    """One move of the alias."""

    version: str
    moved_at: float
    settled_at: float
    """Last answer of another version; infinite: there was none of the new one, or not of it alone."""

    @property
    def seconds(self) -> float:
        """From alias to 100 %."""
        return self.settled_at - self.moved_at

    def meets(self, answer: Answer) -> bool:
        """Whether the request was under way at any time of the swap."""
        return answer.ended >= self.moved_at and answer.began <= self.settled_at + AFTER_S


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--gap", type=float, default=6.0, help="seconds from one move to the next")
    parser.add_argument("--per-second", type=float, default=200.0, help="requests; 0: as many as are answered")
    parser.add_argument("--connections", type=int, default=16)
    return parser.parse_args()


def main() -> None:
    given = arguments()
    with storage() as running:
        fitted = register(running, VERSIONS)
        rows = asked_rows(running, 500)
        port = running.serve_perennial("perennial")
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the first swap", flush=True)
        moves, answers = swap_under_load(running, list(fitted), port, bodies_of(rows), given)
    expected = {version: estimator.predict_proba(rows) for version, estimator in fitted.items()}
    swaps = [
        settle(version, at, end, answers)
        for (version, at), (_, end) in zip(moves, [*moves[1:], ("", math.inf)], strict=True)
    ]
    report(swaps, answers, [why for answer in answers if (why := fault(answer, expected))])


def swap_under_load(
    running: Storage, versions: Sequence[str], port: int, bodies: Sequence[bytes], given: argparse.Namespace
) -> tuple[list[tuple[str, float]], list[Answer]]:
    """Moves of the alias (version, monotonic seconds), and all answers."""
    moves = []
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as client:
        client.submit(drive, port, bodies, given.connections, 3, given.per_second).result()
        seconds = given.gap * (given.swaps + 1)
        start = time.monotonic()
        answers = client.submit(drive, port, bodies, given.connections, seconds, given.per_second)
        for number in range(1, given.swaps + 1):
            time.sleep(max(0.0, start + number * given.gap - time.monotonic()))
            version = versions[number % len(versions)]
            moves.append((version, time.monotonic()))
            running.registry.point_alias(MODEL, "champion", version)
        return moves, answers.result(timeout=seconds + 120)


def settle(version: str, moved_at: float, end: float, answers: Sequence[Answer]) -> Swap:
    """When the version had taken over, judged by the answers until `end`."""
    since = sorted((answer.ended, answer.version) for answer in answers if moved_at <= answer.ended < end)
    others = [at for at, by in since if by not in ("", version)]
    if not since or since[-1][1] != version:
        return Swap(version, moved_at, math.inf)
    return Swap(version, moved_at, max(others, default=moved_at))


def fault(answer: Answer, expected: Mapping[str, Any]) -> str:
    """What is wrong with an answer; empty: nothing."""
    if answer.status != 200:
        return f"status {answer.status}: {answer.content[:100]!r}"
    if answer.version not in expected:
        return f"version {answer.version!r}"
    wanted = expected[answer.version]
    found = np.asarray(json.loads(answer.content)["predictions"])
    right = wanted[answer.number % len(wanted)]
    return "" if found.shape == (1, *right.shape) and np.abs(found[0] - right).max() <= TOLERANCE else "wrong answer"


def report(swaps: Sequence[Swap], answers: Sequence[Answer], faults: Sequence[str]) -> None:
    """What happened, then the line for machines."""
    during, steady = list[float](), list[float]()
    for answer in answers:
        kind = during if any(swap.meets(answer) for swap in swaps) else steady
        kind.append((answer.ended - answer.began) * 1000)
    switches = [swap.seconds for swap in swaps]
    for name, took in (("steady", steady), ("during swaps", during)):
        p50, p99 = np.percentile(took or [math.nan], [50, 99])
        worst = max(took, default=math.nan)
        print(f"{name:<13} {len(took):>7} requests: p50 {p50:6.1f} ms, p99 {p99:6.1f} ms, longest {worst:6.1f} ms")
    print(f"from alias to 100 %: median {statistics.median(switches):.2f} s, longest {max(switches):.2f} s")
    print(f"failed: {len(faults)} of {len(answers)} {dict(Counter(faults).most_common(5)) or ''}")
    p99, baseline = (float(np.percentile(took or [math.nan], 99)) for took in (during, steady))
    checks = {
        "no request failed": not faults and bool(answers),
        f"p99 during swaps at most {TARGET_RATIO} times the steady one": p99 <= TARGET_RATIO * baseline,
        f"100 % on the new version within {TARGET_SWITCH_S} s": max(switches) <= TARGET_SWITCH_S,
    }
    for check, holds in checks.items():
        print(f"{'holds ' if holds else 'FAILS '} {check}")
    line = {
        "bench": "swap",
        "value": round(p99, 2),
        "unit": "ms",
        "baseline": round(baseline, 2),
        "ratio": round(p99 / baseline, 3),
        "target": TARGET_RATIO,
        "holds": all(checks.values()),
        "swaps": len(swaps),
        "requests": len(answers),
        "failed": len(faults),
        "longest_switch_s": round(max(switches), 2),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
