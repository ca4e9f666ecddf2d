"""`perennial champion`: now by the registry and the ledger, at another time by the ledger alone."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
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
from perennial.ledger_answers import ChampionAt, champion_at
from perennial.settings import Settings

if TYPE_CHECKING:
    from perennial.ports import RegisteredVersion
    from perennial.runtime import Runtime


def show_champion(arguments: argparse.Namespace, settings: Settings) -> int:
    """Version, since when, why, of which data, by whom."""
    runtime = known_runtime(arguments.model, settings)
    return _at(arguments, runtime) if arguments.at is not None else _now(arguments, runtime)


def _at(arguments: argparse.Namespace, runtime: Runtime) -> int:
    answer = champion_at(arguments.model, runtime.ledger.entries(arguments.model), arguments.at)
    told = {**answer.to_dict(), "sentence": answer.sentence, **_page(answer, runtime)}
    if arguments.json:
        print_json(told)
    else:
        print_text(make_console(), answer.sentence)
        if answer.version is not None:
            left_out = ("model", "at", "by", "sentence")
            _show(arguments.model, {name: value for name, value in told.items() if name not in left_out})
    return EXIT_FAILED if answer.version is None else EXIT_DONE


def _now(arguments: argparse.Namespace, runtime: Runtime) -> int:
    champion = runtime.registry.champion(arguments.model)
    if champion is None:
        if arguments.json:
            print_json({"model": arguments.model, "version": None})
        else:
            text = f"{arguments.model} has no champion yet; `perennial history {arguments.model}` tells why"
            make_console().print(text, markup=False)
        return EXIT_FAILED
    answer = champion_at(arguments.model, runtime.ledger.entries(arguments.model), runtime.clock.now())
    facts = _facts(champion, answer, runtime)
    if arguments.json:
        print_json(facts)
    else:
        _show(arguments.model, {name: value for name, value in facts.items() if name != "model"})
    return EXIT_DONE


def _facts(champion: RegisteredVersion, answer: ChampionAt, runtime: Runtime) -> dict[str, Any]:
    """The registry's champion with what the ledger knows of it, which is nothing if somebody else moved the alias."""
    named: dict[str, Any] = {"model": champion.name, "version": champion.version}
    trained = {name: value for name, value in champion.model.to_dict().items() if name != "kind"}
    known = answer.to_dict()
    if answer.version != champion.version or known["digest"] not in (None, champion.model.digest):
        before = "no champion" if answer.version is None else f"version {answer.version}"
        why = f"the alias was moved outside Perennial: the newest move on record is to {before}"
        unknown = dict.fromkeys(("since", "as_of", "how"))
        return {**named, **unknown, "why": why, "approver": None, "page_uri": None, "page_url": "", **trained}
    names = ("since", "as_of", "how", "why", "moved_by", "break_glass", "verdict", "decision", "approver")
    told = {name: known[name] for name in names}
    return {**named, **told, **_page(answer, runtime), **trained, "snapshot_uri": known["snapshot_uri"]}


def _page(answer: ChampionAt, runtime: Runtime) -> dict[str, Any]:
    page = None if answer.decision is None else answer.decision.page_uri
    return {"page_uri": page, "page_url": address_of(page, model=answer.model, runtime=runtime)}


def _show(title: str, facts: Mapping[str, Any]) -> None:
    """What is known; the page below it, where its address is not wrapped."""
    rows = {name: value for name, value in facts.items() if name not in ("page_uri", "page_url")}
    shown = {name: value for name, value in rows.items() if value is not None and value is not False and value != ""}
    console = make_console()
    print_facts(console, title, [(n.replace("_", " "), "yes" if v is True else str(v)) for n, v in shown.items()])
    page = facts["page_url"] or facts["page_uri"]
    if page:
        print_line(console, f"page: {page}")
