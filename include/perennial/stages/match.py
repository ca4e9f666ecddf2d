"""Who is compared with whom on which rows, and what a person lets pass by breaking the glass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from perennial.domain.manifest import Manifest
from perennial.domain.references import ModelRef, SnapshotRef
from perennial.domain.run_request import RunRequest
from perennial.errors import ChampionUnusableError, UnfairComparisonError
from perennial.ports import ModelRegistry, ObjectStore
from perennial.spec.model import ModelSpec
from perennial.stages.holdout import (
    Contender,
    Holdout,
    check_times,
    check_unchanged,
    check_unique,
    check_unseen,
    load_holdout,
)
from perennial.stages.judged_champion import JudgedChampion
from perennial.stages.scoring import Loaded, Scores, load_challenger, load_champion, score_models

Result = TypeVar("Result")
CHAMPION_LEFT_OUT = "The glass was broken: the challenger was NOT compared with the champion"
HOLDOUT_UNFAIR = "The glass was broken: the figures of the challenger itself are NOT a fair test"


@dataclass(slots=True)
class Glass:
    """Lets an unfair or impossible comparison pass if the request says why, and notes each; an integrity error never.

    Whether the person may is checked where the run begins (`require_break_glass_allowed`).
    """

    request: RunRequest
    notes: list[str] = field(default_factory=list)

    def passes(self, check: Callable[[], object], consequence: str) -> bool:
        """Whether the check raises nothing; a note if it does and the glass is broken."""
        try:
            check()
        except (UnfairComparisonError, ChampionUnusableError) as error:
            if not self.request.break_glass:
                raise
            self.notes.append(f"{consequence}. {error}")
            return False
        return True

    def attempt(self, step: Callable[[], Result], consequence: str) -> Result | None:
        """What the step returns; None if it does not pass."""
        found: list[Result] = []
        return found[0] if self.passes(lambda: found.append(step()), consequence) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Models that may be compared on the rows of a holdout."""

    holdout: Holdout
    challenger: Loaded
    champion: Loaded | None
    """None if there is none, or if the glass is broken and it cannot be compared."""


def set_up_match(
    spec: ModelSpec,
    snapshot: SnapshotRef,
    manifest: Manifest,
    challenger: ModelRef,
    champion: JudgedChampion | None,
    glass: Glass,
    *,
    store: ObjectStore,
    root: str,
    registry: ModelRegistry,
) -> Match:
    """Load both models and the holdout, and prove that it is fair to both.

    Raises:
        UnfairComparisonError, ChampionUnusableError: unless the glass is broken.
        IntegrityError: bytes of a model, of training keys or of the holdout are not those on record.
        NoDataError: no row in the holdout window.
    """
    interval = manifest.windows.holdout
    contender = Contender(title="challenger", model=challenger)
    glass.passes(lambda: check_times(spec, interval, contender), HOLDOUT_UNFAIR)
    mine, theirs = load_challenger(spec, challenger, registry), None
    if champion is not None:
        theirs = glass.attempt(lambda: _load_rival(spec, manifest, champion, registry), CHAMPION_LEFT_OUT)
    columns = tuple(dict.fromkeys((*spec.needed_columns, *(theirs.features if theirs is not None else ()))))
    holdout = load_holdout(spec, manifest, columns, store=store)
    check_unchanged(spec, snapshot, holdout, store=store, root=root)
    glass.passes(lambda: check_unique(spec, holdout), HOLDOUT_UNFAIR)
    glass.passes(lambda: check_unseen(spec, holdout, contender, store=store, root=root), HOLDOUT_UNFAIR)
    rival = None if champion is None else _rival(champion)
    if theirs is not None and rival is not None:
        fair = glass.passes(lambda: check_unseen(spec, holdout, rival, store=store, root=root), CHAMPION_LEFT_OUT)
        theirs = theirs if fair else None
    return Match(holdout=holdout, challenger=mine, champion=theirs)


def _rival(champion: JudgedChampion) -> Contender | None:
    if champion.model is None:
        return None
    return Contender(title=f"champion version {champion.version}", model=champion.model)


def _load_rival(spec: ModelSpec, manifest: Manifest, champion: JudgedChampion, registry: ModelRegistry) -> Loaded:
    rival = _rival(champion)
    if rival is not None:
        check_times(spec, manifest.windows.holdout, rival)
    return load_champion(spec, champion, registry, tuple(manifest.schema))


def score_match(spec: ModelSpec, match: Match, champion: JudgedChampion | None, glass: Glass) -> Scores:
    """Both models' scores of the holdout; the challenger's alone if the champion fails and the glass is broken.

    Raises:
        ChampionUnusableError: the champion cannot score the holdout, unless the glass is broken.
        TerminalError: the challenger cannot.
    """
    frame, mine, theirs = match.holdout.frame, match.challenger, match.champion
    if theirs is not None and champion is not None:
        scores = glass.attempt(lambda: score_models(spec, frame, mine, theirs, champion.version), CHAMPION_LEFT_OUT)
        if scores is not None:
            return scores
    return score_models(spec, frame, mine, None, None)
