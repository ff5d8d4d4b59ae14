"""λ tuned on one half of a study's validation videos and scored on the other, over several halvings.

python benchmarks/halves.py STUDY [SEEDS]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import polars as pl

from triaffect.data.index import load_index
from triaffect.data.predictions import load_predictions
from triaffect.metrics.fusion import fuse, tune_fusion
from triaffect.metrics.scores import score


def main(folder: str, seeds: str = "3") -> None:
    """Prints the fused score and that of the better side, both of all videos, for each halving and their mean."""
    study = Path(folder)
    results = json.loads((study / "results.json").read_text())
    index = load_index(results["index"], results["split"])
    tuning = results["tuning"][0]
    names = [*tuning["single"], tuning["multi"]]
    *single, multi = [load_predictions(study / "predictions" / f"{name}.parquet") for name in names]
    ends = [score(fuse(single, multi, dict.fromkeys(tuning["lambdas"], end)), index).tasks for end in (0.0, 1.0)]
    better = {task: max(end[task] for end in ends) for task in tuning["lambdas"]}
    print(f"{'better side':12}" + "".join(f"  {task} {value:.3f}" for task, value in better.items()))
    videos, gains = index["video"].unique().sort(), []
    for seed in range(int(seeds)):
        chosen = videos.sample(fraction=1, shuffle=True, seed=seed)[: len(videos) // 2]
        mine = pl.col("video").is_in(chosen.implode())
        halves, fused, used = (index.filter(mine), index.filter(~mine)), [], []
        for here, there in (halves, halves[::-1]):
            lambdas, _ = tune_fusion(single, multi, there)
            fused_half = fuse(single, multi, lambdas)
            fused.append(fused_half.filter(pl.col("image").is_in(here["image"].implode())))
            used.append("/".join(f"{share:.2f}" for share in lambdas.values()))
        scores = score(pl.concat(fused), index, resamples=0).tasks
        gains.append([scores[task] - better[task] for task in better])
        words = "".join(f"  {task} {scores[task]:.3f} ({scores[task] - better[task]:+.3f})" for task in better)
        print(f"halving {seed:<4}{words}  λ {used[0]} and {used[1]}")
    mean = "".join(f"  {task} {gain:+.4f}" for task, gain in zip(better, np.mean(gains, 0), strict=True))
    print(f"{'mean gain':12}{mean}")


if __name__ == "__main__":
    main(*sys.argv[1:])
