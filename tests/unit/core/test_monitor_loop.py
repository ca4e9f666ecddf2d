"""From a training to the look at what it serves: the profiles that a cycle leaves are what the monitor needs."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np

from perennial.domain.traffic import Role
from perennial.prediction_objects import PARQUET_TYPE, labels_path, predictions_path
from perennial.serving.prediction_log import ScoredRequest, encoded
from perennial.spec.model import ModelSpec
from perennial.stages.monitor import observe
from tests.unit.core.world import ROOT, SPEC, START, World, day_frame

DAY = timedelta(days=1)
MONITORING = {"min_rows": 100, "alert": {"windows": 1, "of": 1}}


def _serve(world: World, day: int, *, sign: float) -> None:
    """The champion answers the day's rows, and their labels come."""
    champion = world.registry.champion("toy")
    assert champion is not None
    frame = day_frame(day, sign=sign, rows=150)
    features = frame[["x", "z"]]
    start = START + day * DAY
    request = ScoredRequest(
        model="toy",
        version=champion.version,
        role=Role.CHAMPION,
        request_id=f"day-{day}",
        at=start + timedelta(hours=1),
        rows=len(frame),
        features={name: features[name].tolist() for name in features},
        predictions=world.registry.open_model(champion.model).estimator.predict_proba(features).tolist(),
        latency_ms=1.0,
    )
    uri = f"{ROOT}/{predictions_path('toy', start, champion.version)}{day}.parquet"
    world.store.write(uri, encoded([request]), content_type=PARQUET_TYPE)
    told = frame[["y"]].rename(columns={"y": "label"}).astype("float64")
    told = told.assign(request_id=request.request_id, row=np.arange(len(frame), dtype="int32"))
    told["received_at"] = start + timedelta(hours=3)
    uri = f"{ROOT}/{labels_path('toy', start)}{day}.parquet"
    world.store.write(uri, told.to_parquet(index=False), content_type=PARQUET_TYPE)


def test_trained_and_promoted_model_is_judged_by_its_own_profiles(tmp_path: Path) -> None:
    spec = ModelSpec.model_validate({**SPEC, "deployment": {"kind": "scoring_service"}, "monitoring": MONITORING})
    world = World(tmp_path)  # not deployed: the rows below are what a service would have logged
    world.land(range(28))
    world.run()
    found = {}
    for day, sign in ((30, 1.0), (31, -1.0)):
        _serve(world, day, sign=sign)
        runtime = world.runtime
        seen = observe(
            spec,
            as_of=START + (day + 1) * DAY + timedelta(hours=1),
            store=world.store,
            root=ROOT,
            registry=world.registry,
            ledger=runtime.ledger,
            clock=world.clock,
        )
        found[day] = seen.open_alerts
    assert found == {30: 0, 31: 1}
    assert "roc_auc is" in seen.summary
    assert "worse than the limit" in seen.summary
