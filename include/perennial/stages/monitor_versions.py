"""Which versions served a window, and what each is compared with."""

from __future__ import annotations

from datetime import datetime

from perennial.domain.times import Interval
from perennial.errors import ChampionUnusableError, NotFoundError
from perennial.ports import ModelRegistry, ObjectStore
from perennial.spec.model import ModelSpec
from perennial.stages.monitor_window import ServedVersion
from perennial.stages.profiles import load_profiles
from perennial.stages.window_counts import Reference, count_window

_Known = tuple[Reference, str, tuple[datetime, datetime] | None]


class Versions:
    """Looks versions up, each once."""

    def __init__(self, spec: ModelSpec, *, store: ObjectStore, root: str, registry: ModelRegistry) -> None:
        self._spec, self._store, self._root, self._registry = spec, store, root, registry
        self._known: dict[str, _Known] = {}

    def served(self, window: Interval) -> list[ServedVersion]:
        """The versions that were asked, the one that answered most first."""

        def reference_of(version: str) -> Reference:
            return self._look_up(version)[0]

        served = []
        for counts in count_window(self._spec, window, store=self._store, root=self._root, reference_of=reference_of):
            (profile, holdout), why_not, trained = self._look_up(counts.version)
            served.append(
                ServedVersion(counts=counts, profile=profile, holdout=holdout, why_not=why_not, trained=trained)
            )
        return served

    def _look_up(self, version: str) -> _Known:
        """A version's profiles, why there are none, and its training window; asked once a look."""
        if version not in self._known:
            self._known[version] = self._looked_up(version)
        return self._known[version]

    def _looked_up(self, version: str) -> _Known:
        name = self._spec.name
        try:
            model = self._registry.version(name, version).model
        except (NotFoundError, ChampionUnusableError):
            return (None, None), f"Perennial did not register version {version}, and has no profile of it.", None
        reference = load_profiles(self._store, self._root, name, model.fingerprint)
        why_not = ""
        if reference[0] is None:
            why_not = (
                f"There is no reference: version {version} was trained before profiles were kept. The next one that is "
                f"trained has one."
            )
        return reference, why_not, (model.training_start, model.training_end)
