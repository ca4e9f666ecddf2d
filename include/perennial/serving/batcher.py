"""Dynamic micro-batching: what arrives while a batch is being scored is the next batch.

No timer waits for company: a lone request is scored at once, and under load the batches grow by themselves. One thread
a model version calls `predict`, so a model that hangs holds one thread and no more.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from perennial.serving.columns import Batch
from perennial.serving.errors import DeadlineError, QueueFullError, ServingError, UnavailableError
from perennial.serving.settings import ServingSettings

Predictions = list[Any]
_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Job:
    rows: int
    batch: Batch | None
    """None once nobody waits for it any more: the client hung up, or its time is over. Behind a model that hangs it
    would take memory for as long as that."""
    deadline: float
    """Of `time.monotonic`."""
    answer: asyncio.Future[Predictions]

    def let_go(self, _answer: asyncio.Future[Predictions]) -> None:
        self.batch = None


class Batcher:
    """Collects requests of one model version and scores them together. To be used in one event loop."""

    def __init__(
        self,
        score: Callable[[Sequence[Batch]], list[Predictions]],
        settings: ServingSettings,
        *,
        name: str,
        on_batch: Callable[[int], None] = lambda _rows: None,
    ) -> None:
        """Start the thread; it ends after `close`.

        Args:
            score: predictions by batch; called in the batcher's thread, one call at a time. Raises ServingError.
            settings: the limits.
            name: of the thread.
            on_batch: told the rows of each batch that was scored, in the event loop.
        """
        self._score = score
        self._settings = settings
        self._on_batch = on_batch
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._waiting_rows = 0
        self._busy_since: float | None = None
        self._closed = False
        # A daemon, so that a model that hangs does not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def waiting_rows(self) -> int:
        """Rows that no prediction has begun for."""
        return self._waiting_rows

    @property
    def hangs(self) -> bool:
        """Whether one prediction takes longer than any should."""
        since = self._busy_since
        return since is not None and time.monotonic() - since > self._settings.hang_after_s

    def submit(self, batch: Batch, deadline: float) -> asyncio.Future[Predictions]:
        """Queue the rows. Who no longer wants the answer cancels it.

        Args:
            batch: of the model's columns.
            deadline: of `time.monotonic`; rows that wait longer are not scored.

        Returns:
            Resolves to a prediction a row, or raises ServingError.

        Raises:
            QueueFullError: too many rows wait.
            UnavailableError: the model hangs, or was taken out of service.
        """
        if self._closed:
            raise UnavailableError("this version was just taken out of service; send the request again")
        if self.hangs:
            raise UnavailableError(
                f"the model has been in one prediction for more than {self._settings.hang_after_s:g} s; the replica "
                f"has to be restarted"
            )
        with self._lock:
            if self._waiting_rows and self._waiting_rows + batch.rows > self._settings.max_queue_rows:
                raise QueueFullError(
                    f"{self._waiting_rows} rows wait, and {batch.rows} more would pass the limit of "
                    f"{self._settings.max_queue_rows}; send the request again later"
                )
            self._waiting_rows += batch.rows
        answer: asyncio.Future[Predictions] = self._loop.create_future()
        job = _Job(batch.rows, batch, deadline, answer)
        answer.add_done_callback(job.let_go)
        self._queue.put(job)
        return answer

    def close(self) -> None:
        """Take no more; what was submitted is still scored. The thread then ends by itself."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)

    def _run(self) -> None:
        job = self._queue.get()
        while job is not None:
            jobs, job = self._collect(job)
            outcomes = list(self._outcomes(jobs))
            try:
                self._loop.call_soon_threadsafe(self._deliver, outcomes)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return
            job = job or self._queue.get()

    def _collect(self, first: _Job) -> tuple[list[_Job], _Job | None]:
        """What waits, up to the limit; and the job that did not fit any more."""
        jobs, rows = [first], first.rows
        held = None
        while rows < self._settings.max_batch_rows:
            try:
                job = self._queue.get_nowait()
            except Empty:
                break
            if job is None:
                self._queue.put(None)  # close() comes last, so nothing is behind it
                break
            if rows + job.rows > self._settings.max_batch_rows:
                held = job
                break
            jobs.append(job)
            rows += job.rows
        with self._lock:
            self._waiting_rows -= rows
        return jobs, held

    def _outcomes(self, jobs: Sequence[_Job]) -> Iterator[tuple[_Job, Predictions | ServingError]]:
        """Predictions of each job. One whose rows make the model raise is found by halving, and fails alone.

        For n jobs, of which k raise, at most about 2 k log2(n) predictions.
        """
        now = time.monotonic()
        # Cancelled is known at once; `let_go` frees the rows of it only when the loop comes to its callbacks.
        wanted = (job for job in jobs if not job.answer.cancelled())
        waiting = [(job, batch) for job in wanted if (batch := job.batch) is not None]
        late = [job for job, _ in waiting if now > job.deadline]
        yield from ((job, DeadlineError("the request waited for longer than its time limit")) for job in late)
        jobs = [job for job, _ in waiting if now <= job.deadline]
        if not jobs:
            return
        self._busy_since = now
        try:
            found = self._score([batch for job, batch in waiting if now <= job.deadline])
        except Exception as error:  # what is no ServingError is a mistake of ours, and must not end the thread
            if not isinstance(error, ServingError):
                _log.exception("scoring failed")
                error = ServingError("scoring failed inside the service; its log says why")
            if len(jobs) == 1:
                yield jobs[0], error
                return
            half = len(jobs) // 2
            yield from self._outcomes(jobs[:half])
            yield from self._outcomes(jobs[half:])
            return
        finally:
            self._busy_since = None
        yield from zip(jobs, found, strict=True)

    def _deliver(self, outcomes: Sequence[tuple[_Job, Predictions | ServingError]]) -> None:
        self._on_batch(sum(job.rows for job, _ in outcomes))
        for job, outcome in outcomes:
            if job.answer.done():
                continue
            if isinstance(outcome, ServingError):
                job.answer.set_exception(outcome)
            else:
                job.answer.set_result(outcome)
