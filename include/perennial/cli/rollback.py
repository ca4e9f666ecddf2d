"""`perennial rollback`."""

from __future__ import annotations

import argparse
import time

from perennial.cli.terminal import (
    EXIT_DONE,
    champions,
    make_console,
    new_run_id,
    print_json,
    print_line,
    print_text,
    user,
)
from perennial.settings import Settings


def roll_back(arguments: argparse.Namespace, settings: Settings) -> int:
    """Put an earlier champion back, and say what was quarantined."""
    from perennial.cycle import rollback
    from perennial.domain.run_request import RollbackRequest
    from perennial.runtime import build_runtime
    from perennial.spec import load_model

    began = time.perf_counter()
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
    done = rollback(runtime, spec, request)
    took_s = time.perf_counter() - began
    found = (
        entry for entry in runtime.ledger.newest(spec.name, "rollback", count=100) if entry.run_id == request.run_id
    )
    entry = next(found)  # the rollback ends with its entry on record
    if arguments.json:
        facts = {key: value for key, value in done.to_dict().items() if key not in ("kind", "quarantined")}
        told = {"summary": entry.summary, "quarantined": dict(entry.quarantined), "took_s": round(took_s, 3)}
        print_json({"model": spec.name, **facts, **told})
        return EXIT_DONE
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
    return EXIT_DONE
