"""A platform in memory."""

from __future__ import annotations

from dataclasses import replace

from perennial.errors import DeployerUnavailableError
from perennial.ports import DeploymentStatus, RegisteredVersion, Split


class MemoryDeployer:
    """A `Deployer` that remembers who was told to serve what. Share one object to share the state."""

    def __init__(self) -> None:
        self.changes: list[tuple[str, str, float]] = []
        """What was changed: method, version, share; calls that change nothing are left out."""
        self.is_slow = False
        """Whether a split stays on its way; a test sets it back."""
        self.problem = ""
        """What a split's challenger is said to suffer from."""
        self._champions: dict[str, str] = {}
        self._splits: dict[str, DeploymentStatus] = {}

    def deploy(self, split: Split) -> None:
        """Bring the challenger up, unless it is."""
        if self._own(split) is not None:
            return
        self._splits[split.challenger.name] = DeploymentStatus(
            champion=split.champion.version,
            challenger=split.challenger.version,
            role=split.role,
            rollout_id=split.rollout_id,
        )
        self.changes.append(("deploy", split.challenger.version, 0.0))

    def shift(self, split: Split, share: float) -> None:
        """Give it a share; one that is not up is brought up."""
        self.deploy(split)
        found = self._splits[split.challenger.name]
        if found.share != share:
            self._splits[split.challenger.name] = replace(found, share=share)
            self.changes.append(("shift", split.challenger.version, share))

    def status(self, model: str) -> DeploymentStatus:
        """What was asked for last."""
        found = self._splits.get(model)
        if found is None:
            return DeploymentStatus(champion=self._champions.get(model))
        return replace(found, ready=not self.is_slow, problem=self.problem)

    def promote(self, champion: RegisteredVersion) -> None:
        """End the split, and let this version answer."""
        self._serve("promote", champion)

    def roll_back(self, champion: RegisteredVersion) -> None:
        """End the split; where nothing is deployed, nothing comes up."""
        if self.status(champion.name).champion is not None:
            self._serve("roll_back", champion)

    def expire(self, model: str) -> None:
        """What a platform does whose splits are short-lived and were not renewed; for tests."""
        self._splits.pop(model, None)

    def _serve(self, how: str, champion: RegisteredVersion) -> None:
        ended = self._splits.pop(champion.name, None)
        if ended is not None or self._champions.get(champion.name) != champion.version:
            self._champions[champion.name] = champion.version
            self.changes.append((how, champion.version, 100.0))

    def _own(self, split: Split) -> DeploymentStatus | None:
        found = self._splits.get(split.challenger.name)
        if found is not None and found.rollout_id != split.rollout_id:
            raise DeployerUnavailableError(f"{split.challenger.name}: rollout {found.rollout_id} is in force")
        return found
