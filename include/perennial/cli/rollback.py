"""`perennial rollback`."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from perennial.cli.terminal import (
    EXIT_DONE,
    address_of,
    champions,
    make_console,
    new_run_id,
    print_json,
    print_line,
    print_text,
    user,
)
from perennial.settings import Settings

if TYPE_CHECKING:
    from perennial.domain.run_request import RollbackRequest
    from perennial.runtime import Runtime
    from perennial.spec import ModelSpec


def roll_back(arguments: argparse.Namespace, settings: Settings) -> int:
    """Put an earlier champion back, or take the challenger off live traffic; say what was quarantined."""
    from perennial.domain.run_request import RollbackRequest
    from perennial.runtime import build_runtime
    from perennial.spec import load_model

    spec = load_model(settings.specs, arguments.model)
    runtime = build_runtime(settings)
    now = runtime.clock.now()
    request = RollbackRequest(
        model=spec.name,
        run_id=new_run_id(now),
        as_of=now,
        trigger="command",
        reason=arguments.reason,
        requested_by=user(),
        to=arguments.to,
    )
    act = _take_challenger_back if arguments.challenger else _put_champion_back
    act(runtime, spec, request, as_json=arguments.json)
    return EXIT_DONE


def _take_challenger_back(runtime: Runtime, spec: ModelSpec, request: RollbackRequest, *, as_json: bool) -> None:
    from perennial.cycle import stop_rollout

    began = time.perf_counter()
    ended = stop_rollout(runtime, spec, request)
    took_s = time.perf_counter() - began
    page = address_of(ended.page_uri, model=spec.name, runtime=runtime)
    if as_json:
        facts = {key: value for key, value in ended.to_dict().items() if key != "kind"}
        print_json({"model": spec.name, **facts, "page_url": page, "took_s": round(took_s, 3)})
        return
    console = make_console()
    print_line(console, f"version {ended.version} is off live traffic  in {took_s:.1f} s")
    back = f"perennial rollback {spec.name} --to {ended.version} --reason TEXT"
    for text in (ended.summary, f"It is in quarantine. What makes it champion all the same: {back}"):
        print_text(console, text, indent=4)
    print_line(console, f"page: {page or ended.page_uri}")


def _put_champion_back(runtime: Runtime, spec: ModelSpec, request: RollbackRequest, *, as_json: bool) -> None:
    from perennial.cycle import rollback

    began = time.perf_counter()
    done = rollback(runtime, spec, request)
    took_s = time.perf_counter() - began
    found = (
        entry for entry in runtime.ledger.newest(spec.name, "rollback", count=100) if entry.run_id == request.run_id
    )
    entry = next(found)  # the rollback ends with its entry on record
    if as_json:
        facts = {key: value for key, value in done.to_dict().items() if key not in ("kind", "quarantined")}
        told = {"summary": entry.summary, "quarantined": dict(entry.quarantined), "took_s": round(took_s, 3)}
        print_json({"model": spec.name, **facts, **told})
        return
    console = make_console()
    print_line(console, f"{champions(done.champion_before, done.champion_after)}  in {took_s:.1f} s")
    print_text(console, entry.summary, indent=4)
    if entry.quarantined:
        print_text(
            console,
            f"What puts version {done.champion_before} back, and releases it from quarantine: "
            f"perennial rollback {spec.name} --to {done.champion_before} --reason TEXT",
            indent=4,
        )
