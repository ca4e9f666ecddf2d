"""Where windows lie: training and holdout hang on the watermark, not on the wall clock; monitoring has a grid."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from perennial.domain.times import EPOCH, Interval
from perennial.spec.parts import Data

_MINUTE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class DataWindows:
    """The two windows of one run. `training.end + embargo == holdout.start`."""

    training: Interval
    holdout: Interval

    @property
    def whole(self) -> Interval:
        """From the first training row to the last holdout row, the embargo between them included."""
        return Interval(self.training.start, self.holdout.end)


@dataclass(frozen=True, slots=True)
class WindowGrid:
    """Windows of one length, one after the other; number n ends n lengths after 1970-01-01T00:00:00Z."""

    length: timedelta

    def number(self, moment: datetime) -> int:
        """Of the newest window that has ended at this moment."""
        return (moment - EPOCH) // self.length

    def window(self, number: int) -> Interval:
        """The window of that number."""
        end = EPOCH + number * self.length
        return Interval(end - self.length, end)

    def ended(self, moment: datetime) -> Interval:
        """The newest window that has ended at this moment."""
        return self.window(self.number(moment))


def watermark_at(newest_row: datetime, as_of: datetime) -> datetime:
    """End (exclusive) of the complete data: the full minute after the newest row, never later than `as_of`."""
    past_newest = newest_row.replace(second=0, microsecond=0) + _MINUTE
    return min(past_newest, as_of)


def windows_at(watermark: datetime, as_of: datetime, data: Data) -> DataWindows:
    """Windows of a run at `as_of` over data that is complete up to `watermark`.

    The holdout ends where data ends, or where labels have matured (`as_of - label_delay`), whichever is earlier.
    """
    holdout_end = min(watermark, as_of - data.label_delay)
    holdout_start = holdout_end - data.windows.holdout
    training_end = holdout_start - data.windows.embargo
    return DataWindows(
        training=Interval(training_end - data.windows.training, training_end),
        holdout=Interval(holdout_start, holdout_end),
    )
