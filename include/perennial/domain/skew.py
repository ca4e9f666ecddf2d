"""Whether the service gets what the model was trained on: mistakes of who sends, not changes of the world.

A number beyond the reference's range is no mistake as such: a summer is warmer than every day of the winter before, and
that is drift. It is taken for one where most values lie further outside than the reference's whole range is wide, as
with another unit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from perennial.domain.distances import wilson
from perennial.domain.drift import counts_of, missing_of
from perennial.domain.profile import CategoryProfile, ColumnCounts, ColumnProfile
from perennial.domain.wording import number

UNSEEN_LIMIT: Final = 0.05
"""Share of values with a category that training has not seen, where training kept all that it saw."""
UNREADABLE_LIMIT: Final = 0.01
"""Share of values that are texts, or infinite, where training had numbers."""
MISSING_LIMIT: Final = 0.2
"""By so much the share of missing values may be larger than in training."""
NEVER_SENT_LIMIT: Final = 0.05
"""The same, where every single row lacks the value."""
FAR_SHARE: Final = 0.5
"""Share of values outside the reference's range, beyond which their mean is looked at."""

Finding = Literal["never_sent", "other_type", "other_unit", "unseen", "missing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnSkew:
    """One served column against the training snapshot."""

    column: str
    kind: Literal["number", "category"]
    rows: int
    """Of the window, missing values included."""
    finding: Finding | None
    """`never_sent`: missing in every row, though training had values. `other_type`: texts where there should be
    numbers. `other_unit`: most numbers are far outside all that training had. `unseen`: categories that training has
    not seen. `missing`: missing far more often. Of several, the one furthest beyond its limit. None: nothing."""
    share: float
    """What is nearest to its limit, or furthest beyond: of rows missing, or of values that are unlike; in [0, 1]."""
    low: float
    high: float
    """95 % confidence interval of `share` (Wilson 1927); [0, 1] without rows."""
    reference_share: float
    """The same of the training rows."""
    limit: float
    """That `low` has to be above."""
    skewed: bool
    """`finding` is not None."""
    strength: float
    """(low - reference_share) / (limit - reference_share), 0 or more: above 1 beyond the limit."""
    says: str
    """A phrase that follows the column's name: `never sent, in training it is missing in 0.4 % of the rows`."""


class _Check(NamedTuple):
    finding: Finding
    found: int
    """Rows or values."""
    of: int
    """Rows or values."""
    reference_share: float
    limit: float
    """Of the share's lower end; 1 or more: can't be beyond."""


def compare_served(columns: Sequence[ColumnProfile], counts: Mapping[str, ColumnCounts]) -> tuple[ColumnSkew, ...]:
    """The columns, in their order.

    Raises:
        ValueError: counts of a column are not there, or not as many as the profile has bins or levels.
    """
    return tuple(_judged(column, counts_of(column, counts)) for column in columns)


def _judged(profile: ColumnProfile, counts: ColumnCounts) -> ColumnSkew:
    check = max(_checks(profile, counts), key=_strength)
    low, high = wilson(check.found, check.of)
    skewed = low > check.limit
    return ColumnSkew(
        column=profile.column,
        kind="category" if isinstance(profile, CategoryProfile) else "number",
        rows=missing_of(profile, counts)[0][1],
        finding=check.finding if skewed else None,
        share=check.found / check.of if check.of else 0.0,
        low=low,
        high=high,
        reference_share=check.reference_share,
        limit=check.limit,
        skewed=skewed,
        strength=_strength(check),
        says=_words(check) if skewed else "as in training",
    )


def _strength(check: _Check) -> float:
    more = wilson(check.found, check.of)[0] - check.reference_share
    return max(0.0, more) / (check.limit - check.reference_share)


def _checks(profile: ColumnProfile, counts: ColumnCounts) -> Iterator[_Check]:
    """All that apply; the first always does."""
    (missing, rows), (before, reference_rows) = missing_of(profile, counts)
    share, values = (before / reference_rows if reference_rows else 1.0), rows - missing
    never = rows > 0 and missing == rows
    least = NEVER_SENT_LIMIT if never else MISSING_LIMIT
    yield _Check(
        "never_sent" if never else "missing", missing, rows, share, share + max(least, profile.missing_varies_by)
    )
    if before == reference_rows:
        return  # what is unlike nothing at all
    if isinstance(profile, CategoryProfile):
        yield _Check("unseen", counts.unseen, values, 0.0, UNSEEN_LIMIT)
        return
    yield _Check("other_type", counts.unreadable, values, 0.0, UNREADABLE_LIMIT)
    numbers, outside = values - counts.unreadable, counts.unseen - counts.unreadable
    width = profile.highest - profile.lowest
    if numbers and not profile.lowest - width <= counts.total / numbers <= profile.highest + width:
        yield _Check("other_unit", outside, values, 0.0, FAR_SHARE)


def _words(check: _Check) -> str:
    share, before = (f"{number(100 * part, 1)} %" for part in (check.found / check.of, check.reference_share))
    return {
        "never_sent": f"never sent, in training it is missing in {before} of the rows",
        "missing": f"missing in {share} of the rows, in training in {before}",
        "other_type": f"{share} of the values are no finite numbers",
        "other_unit": f"{share} of the values are outside the range of training, on average by more than its width",
        "unseen": f"{share} of the values are categories that training has not seen",
    }[check.finding]
