"""Fakes that pass the same contract suites as the real adapters; shipped, so that a user's own tests can use them."""

from perennial.testing.clock import FixedClock
from perennial.testing.deployer import MemoryDeployer
from perennial.testing.registry import MemoryRegistry
from perennial.testing.starter import MemoryStarter
from perennial.testing.store import FolderStore

__all__ = ["FixedClock", "FolderStore", "MemoryDeployer", "MemoryRegistry", "MemoryStarter"]
