"""Which versions served a window, and what each is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perennial.domain.times import Interval, parse_time
from perennial.errors import ChampionUnusableError, NotFoundError, RegistryUnavailableError
from perennial.ports import ModelRegistry, ObjectStore
from perennial.spec.model import ModelSpec
from perennial.stages.monitor_window import ServedVersion, Training
from perennial.stages.profiles import load_profiles
from perennial.stages.window_counts import Reference, count_window

_Known = tuple[Reference, str, Training | None]


def _told(report: Mapping[str, Any]) -> dict[str, Any]:
    return {each["version"]: each["training"] for each in report["versions"] if "training" in each}


class Versions:
    """Looks versions up, each once.

    What the registry told of a version is in the report, so that windows can be judged while it does not answer.
    """

    def __init__(self, spec: ModelSpec, *, store: ObjectStore, root: str, registry: ModelRegistry) -> None:
        self._spec, self._store, self._root, self._registry = spec, store, root, registry
        self._known: dict[str, _Known] = {}

    def served(self, window: Interval, *, before: Mapping[str, Any] | None) -> list[ServedVersion]:
        """The versions that were asked, the one that answered most first.

        Args:
            window: that is looked at.
            before: the report of the window before; None: there is none.

        Raises:
            RegistryUnavailableError: of a version that the report before does not tell of.
        """
        told = {} if before is None else _told(before)

        def known(version: str) -> _Known:
            if version not in self._known:
                self._known[version] = self._look_up(version, told)
            return self._known[version]

        def reference_of(version: str) -> Reference:
            return known(version)[0]

        served = []
        for counts in count_window(self._spec, window, store=self._store, root=self._root, reference_of=reference_of):
            (profile, holdout), why_not, training = known(counts.version)
            served.append(
                ServedVersion(counts=counts, profile=profile, holdout=holdout, why_not=why_not, training=training)
            )
        return served

    def _look_up(self, version: str, told: Mapping[str, Any]) -> _Known:
        """A version's profiles, why there are none, and its training."""
        name = self._spec.name
        training = self._training(version, told)
        if training is None:
            return (None, None), f"Perennial did not register version {version}, and has no profile of it.", None
        reference = load_profiles(self._store, self._root, name, training.fingerprint)
        why_not = ""
        if reference[0] is None:
            why_not = (
                f"There is no reference: version {version} was trained before profiles were kept. The next one that is "
                f"trained has one."
            )
        return reference, why_not, training

    def _training(self, version: str, told: Mapping[str, Any]) -> Training | None:
        """None: Perennial did not register it."""
        try:
            model = self._registry.version(self._spec.name, version).model
        except (NotFoundError, ChampionUnusableError):
            return None
        except RegistryUnavailableError:
            if version not in told:
                raise
            found = told[version]
            if found is None:
                return None
            return Training(found["fingerprint"], parse_time(found["start"]), parse_time(found["end"]))
        return Training(model.fingerprint, model.training_start, model.training_end)
