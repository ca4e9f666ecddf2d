"""`perennial champion`: now by the registry and the ledger, at another time by the ledger alone."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from perennial.cli.terminal import (
    EXIT_DONE,
    EXIT_FAILED,
    address_of,
    known_runtime,
    make_console,
    print_facts,
    print_json,
    print_line,
    print_text,
)
from perennial.domain.times import format_time
from perennial.domain.wording import plain
from perennial.errors import RequestError
from perennial.ledger_answers import ChampionAt, champion_at, quarantined_versions, why_no_champion
from perennial.settings import Settings

if TYPE_CHECKING:
    from perennial.domain.ledger_entry import LedgerEntry
    from perennial.ports import RegisteredVersion
    from perennial.runtime import Runtime


def show_champion(arguments: argparse.Namespace, settings: Settings) -> int:
    """Version, since when, why, of which data, by whom."""
    runtime = known_runtime(arguments.model, settings)
    return _at(arguments, runtime) if arguments.at is not None else _now(arguments, runtime)


def _at(arguments: argparse.Namespace, runtime: Runtime) -> int:
    if arguments.at > runtime.clock.now():
        raise RequestError(f"--at {format_time(arguments.at)} is in the future; the ledger knows the past only")
    answer = champion_at(arguments.model, runtime.ledger.entries(arguments.model), arguments.at)
    told = {**answer.to_dict(), "sentence": answer.sentence, **_page(answer, runtime)}
    if arguments.json:
        print_json(told)
    else:
        print_text(make_console(), answer.sentence)
        if answer.version is not None:
            _show(told)
    return EXIT_FAILED if answer.version is None else EXIT_DONE


def _now(arguments: argparse.Namespace, runtime: Runtime) -> int:
    champion = runtime.registry.champion(arguments.model)
    entries = runtime.ledger.entries(arguments.model)
    held = quarantined_versions(entries)
    if champion is None:
        return _none(arguments, entries, held)
    answer = champion_at(arguments.model, entries, runtime.clock.now())
    facts = {**_facts(champion, answer, runtime), **_live(champion, runtime), "quarantined": held}
    if arguments.json:
        print_json(facts)
    else:
        _show(facts)
    return EXIT_DONE


def _none(arguments: argparse.Namespace, entries: Sequence[LedgerEntry], held: Mapping[str, str]) -> int:
    why = why_no_champion(arguments.model, entries)
    if arguments.json:
        print_json({"model": arguments.model, "version": None, "why": why, "quarantined": held})
    else:
        console = make_console()
        for text in (why, *(f"In quarantine: {reason}" for reason in held.values())):
            print_text(console, text)
    return EXIT_FAILED


def _facts(champion: RegisteredVersion, answer: ChampionAt, runtime: Runtime) -> dict[str, Any]:
    """The registry's champion with what the ledger knows of it, which is nothing if somebody else moved the alias."""
    named: dict[str, Any] = {"model": champion.name, "version": champion.version}
    trained = {name: value for name, value in champion.model.to_dict().items() if name != "kind"}
    known = answer.to_dict()
    names = (
        *("since", "as_of", "data_up_to", "how", "why", "moved_by", "break_glass"),
        *("verdict", "decision", "approver", "rollouts"),
    )
    if answer.version != champion.version or known["digest"] not in (None, champion.model.digest):
        before = "no champion" if answer.version is None else f"version {answer.version}"
        why = (
            f"The alias was moved outside Perennial: the ledger's newest move is to {before}. The next run or rollback "
            f"puts this on record."
        )
        unknown: dict[str, Any] = {**dict.fromkeys(names), "why": why}
        return {**named, **unknown, "page_uri": None, "page_url": "", **trained}
    told = {name: known[name] for name in names}
    return {**named, **told, **_page(answer, runtime), **trained, "snapshot_uri": known["snapshot_uri"]}


def _live(champion: RegisteredVersion, runtime: Runtime) -> dict[str, Any]:
    """What the platform serves beside the champion, or in its place; nothing if the model is not deployed."""
    from perennial.errors import PerennialError
    from perennial.spec import load_model

    try:
        spec = load_model(runtime.specs, champion.name)
        if spec.deployment is None:
            return {}
        status = runtime.deployer(spec).status(champion.name)
    except PerennialError as error:  # what the registry and the ledger know is told all the same
        return {"live": {"unknown": str(error)}}
    return {"live": asdict(status)}


def _live_words(model: str, version: str, live: Mapping[str, Any]) -> dict[str, str]:
    """The challenger on live traffic; a platform that lags behind the alias, or has a problem."""
    if "unknown" in live:
        return {"on live traffic": f"not known: {live['unknown']}"}
    told = {}
    if live["challenger"] is not None:
        share = plain(live["share"])
        does = f"answers {share} % of the requests" if live["role"] == "canary" else f"scores a copy of {share} %"
        does = does if live["share"] else "is being brought up"
        told["on live traffic"] = (
            f"version {live['challenger']} {does} ({live['role']}). What takes it back: perennial rollback {model} "
            f"--challenger"
        )
    if live["champion"] not in (None, version):
        told["platform serves"] = f"version {live['champion']} still, not version {version}"
    if live["problem"]:
        told["platform says"] = live["problem"]
    return told


def _page(answer: ChampionAt, runtime: Runtime) -> dict[str, Any]:
    page = None if answer.decision is None else answer.decision.page_uri
    return {"page_uri": page, "page_url": address_of(page, model=answer.model, runtime=runtime)}


def _show(facts: Mapping[str, Any]) -> None:
    """What people ask for, in the order in which they ask; JSON has the rest. The page last, on a line of its own."""
    by_clock = facts.get("by") != "data"
    judged = f"{facts['verdict']}: {facts['decision']}" if facts.get("verdict") else None
    trained = f"{facts['training_start']} to {facts['training_end']}" if facts.get("training_end") else None
    rows = {
        "model": facts["model"],
        "version": facts["version"],
        **({"champion since": facts["since"]} if by_clock else {"recorded at": facts["recorded_at"]}),
        "asked for by": facts["moved_by"],
        "why": facts["why"],
        **(_live_words(facts["model"], facts["version"], live) if (live := facts.get("live")) else {}),
        "glass broken": "yes" if facts["break_glass"] else None,
        "approved by": facts["approver"],
        **{rollout["phase"]: rollout["summary"] for rollout in facts.get("rollouts") or ()},
        "verdict": judged,
        "judged on data up to": facts["data_up_to"],
        "trained on data of": trained,
        "training data": facts.get("snapshot_uri") or facts.get("snapshot_sha256"),
        "model's digest": facts.get("digest"),
        "MLflow run": facts.get("run_id"),
        **{f"quarantined v{version}": why for version, why in facts.get("quarantined", {}).items()},
    }
    console = make_console()
    print_facts(console, [(name, str(value)) for name, value in rows.items() if value])
    page = facts["page_url"] or facts["page_uri"]
    if page:
        print_line(console, f"page: {page}")
