"""The deployer of a model that is not deployed: the alias `champion` is all there is."""

from __future__ import annotations

from perennial.ports import DeploymentStatus, RegisteredVersion, Split


class NoDeployer:
    """A `Deployer` that does nothing, for specs without a `deployment`."""

    def deploy(self, split: Split) -> None:
        """Do nothing."""

    def shift(self, split: Split, share: float) -> None:
        """Do nothing."""

    def status(self, model: str) -> DeploymentStatus:
        """Ready, and nobody's split."""
        del model
        return DeploymentStatus(champion=None)

    def promote(self, champion: RegisteredVersion) -> None:
        """Do nothing."""

    def roll_back(self, champion: RegisteredVersion) -> None:
        """Do nothing."""
