"""Telling what serves a model whom the alias `champion` names: after it has moved, and when a challenger is taken back.

The alias and the ledger come first; this follows them, and may be repeated at any time.
"""

from __future__ import annotations

import logging

from perennial.champion_door import ChampionDoor, named
from perennial.errors import ChampionUnusableError
from perennial.ports import Deployer, RegisteredVersion

_log = logging.getLogger(__name__)


def take_over(model: str, version: str, *, door: ChampionDoor, deployer: Deployer) -> None:
    """Let the version that has become champion answer everything, and end any split.

    Does nothing if the alias has moved on since: whoever moved it sees to that.
    """
    champion = door.registry.champion_version(model)
    if champion != version:
        _log.warning("%s: version %s is not deployed: the alias names %s by now", model, version, named(champion))
        return
    deployer.promote(door.registry.version(model, version))


def give_back(
    model: str,
    rollout_id: str,
    *,
    door: ChampionDoor,
    deployer: Deployer,
    otherwise: RegisteredVersion | None = None,
) -> None:
    """Let the present champion answer everything, and end this rollout's split. Another one's split stays.

    Args:
        model: its name.
        rollout_id: whose split.
        door: to production.
        deployer: where the model serves.
        otherwise: who answers if the alias names nobody, or a version that Perennial did not register.
    """
    status = deployer.status(model)
    if status.rollout_id not in (None, rollout_id):
        return
    try:
        champion = door.registry.champion(model) or otherwise
    except ChampionUnusableError:
        champion = otherwise
    if champion is None:
        return
    if status.challenger == champion.version:  # a champion by now: its share must not be taken away first
        deployer.promote(champion)
    else:
        deployer.roll_back(champion)
