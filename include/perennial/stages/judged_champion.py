"""Which champion a run judges: the one it met first, however often its stages are repeated.

Without this record, a run that has promoted its challenger and is then repeated from the start (a crash before the
ledger's entry, or somebody clears it in Airflow) would meet its own challenger as champion, judge it against itself,
and record a second, contrary outcome.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from perennial.domain.fingerprint import canonical_json, digest_of
from perennial.domain.references import ModelRef
from perennial.domain.run_request import RunRequest
from perennial.errors import ChampionUnusableError, IntegrityError
from perennial.json_objects import put_once, stored_object
from perennial.ports import ModelRegistry, ObjectStore


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedChampion:
    """The version behind the alias `champion`."""

    version: str
    model: ModelRef | None
    """None: Perennial did not register it, and the request breaks the glass."""
    problem: str = ""
    """Why there is no `model`."""


def judged_champion(
    request: RunRequest, challenger: ModelRef, *, store: ObjectStore, root: str, registry: ModelRegistry
) -> JudgedChampion | None:
    """The champion that this run judges this challenger against; None if there was none.

    Promotion is fenced: if the alias has moved since, `promote` refuses and asks for a new run.

    Raises:
        IntegrityError: the record cannot be read.
        ChampionUnusableError: Perennial did not register the champion, and the request does not break the glass.
    """
    key = digest_of([request.run_id, challenger.digest])[:32]
    uri = f"{root}/evaluations/{request.model}/runs/{key}.json"
    if stored_object(store, uri) is None:
        facts = _champion_now(request, registry)
        content = canonical_json({"run_id": request.run_id, "challenger": challenger.digest, "champion": facts})
        put_once(store, uri, content)
    try:
        met = json.loads(store.read(uri))["champion"]
        if met is None:
            return None
        model = None if met["model"] is None else ModelRef.from_dict(met["model"])
        return JudgedChampion(version=str(met["version"]), model=model, problem=str(met.get("problem", "")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(
            f"{uri} does not tell which champion run {request.run_id} judges ({type(error).__name__}: {error}); "
            f"find out who wrote it, delete it, and start a new run"
        ) from error


def _champion_now(request: RunRequest, registry: ModelRegistry) -> dict[str, Any] | None:
    try:
        champion = registry.champion(request.model)
    except ChampionUnusableError as error:
        version = registry.champion_version(request.model) if request.break_glass else None
        if version is None:
            raise
        return {"version": version, "model": None, "problem": str(error)}
    return None if champion is None else {"version": champion.version, "model": champion.model.to_dict()}
