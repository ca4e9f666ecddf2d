"""How much faster the cluster bootstrap of roc_auc is than the plain loop over scikit-learn, at the same answer.

30,000 rows in 14 clusters, two models, 2,000 replicates. The loop is timed on a few replicates and scaled up.
Last line: one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
from sklearn.metrics import roc_auc_score

from perennial.domain.bootstrap import cluster_draws, paired_bootstrap
from perennial.domain.resampling import resampled

TARGET_RATIO = 1 / 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=30_000)
    parser.add_argument("--clusters", type=int, default=14)
    parser.add_argument("--replicates", type=int, default=2000)
    parser.add_argument("--loop", type=int, default=30, help="replicates of the plain loop that are timed")
    given = parser.parse_args()

    generator = np.random.default_rng(0)
    codes = generator.integers(0, given.clusters, given.rows)
    labels = (generator.random(given.rows) < 0.22).astype(float)
    scores = [np.clip(0.3 + effect * labels + 0.2 * generator.normal(size=given.rows), 0, 1) for effect in (0.16, 0.15)]
    options = {"replicates": given.replicates, "confidence": 0.9, "seed": 0}
    paired_bootstrap(["roc_auc"], labels, *scores, codes, **{**options, "replicates": 10})  # imports, first touch

    seconds = {}
    for names in (
        ("roc_auc",),
        ("average_precision",),
        ("log_loss",),
        ("roc_auc", "log_loss", "brier", "average_precision"),
    ):
        start = time.perf_counter()
        paired_bootstrap(names, labels, *scores, codes, **options)
        seconds["+".join(names)] = round(time.perf_counter() - start, 3)

    weights = cluster_draws(given.clusters, given.loop, np.random.default_rng(0))
    start = time.perf_counter()
    plain = [
        roc_auc_score(labels, scores[0], sample_weight=row[codes])
        - roc_auc_score(labels, scores[1], sample_weight=row[codes])
        for row in weights
    ]
    loop_s = (time.perf_counter() - start) * given.replicates / given.loop
    fast = np.subtract(*(resampled("roc_auc", labels, s, codes, given.clusters)(weights) for s in scores))

    line = {
        "bench": "bootstrap_speed",
        "value": seconds["roc_auc"],
        "unit": "s",
        "baseline": round(loop_s, 1),
        "ratio": round(seconds["roc_auc"] / loop_s, 5),
        "target": TARGET_RATIO,
        "holds": seconds["roc_auc"] / loop_s <= TARGET_RATIO,
        "rows": given.rows,
        "clusters": given.clusters,
        "replicates": given.replicates,
        "seconds": seconds,
        "largest_gap_to_sklearn": float(np.abs(fast - plain).max()),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
