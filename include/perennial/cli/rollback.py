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
    recorded = [e for e in runtime.ledger.newest(spec.name, "rollback", count=5) if e.run_id == request.run_id]
    quarantined = dict(recorded[-1].quarantined) if recorded else {}
    if arguments.json:
        facts = {key: value for key, value in done.to_dict().items() if key not in ("kind", "quarantined")}
        print_json({"model": spec.name, **facts, "quarantined": quarantined, "took_s": round(took_s, 3)})
        return EXIT_DONE
    console = make_console()
    moved = champions(done.champion_before, done.champion_after)
    console.print(f"[bold]{moved}[/]  in {took_s:.1f} s")
    for digest, why in quarantined.items():
        print_text(console, f"quarantined: {digest[:12]}  {why}", indent=4)
    if not quarantined:
        print_text(console, "Nothing was quarantined.", indent=4)
    return EXIT_DONE
