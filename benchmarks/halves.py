"""Claim: λ tuned on one half of the videos and used on the other half does no worse than the better of the two sides.

    triaffect demo --out demo
    python benchmarks/halves.py demo/study [SPLITS]

Divides the source videos of a study's evaluated split at random, several times. Prints the fused score of all videos,
each half with the λ of the other, and its difference to the better side.
"""

from __future__ import annotations

import sys

import numpy as np
import polars as pl

from triaffect.data.predictions import load_predictions
from triaffect.io import InputError
from triaffect.metrics.bootstrap import number_sources
from triaffect.metrics.fusion import fuse, tune_fusion
from triaffect.metrics.scores import score
from triaffect.report.study_folder import StudyFolder


def main(folder: str, splits: str = "3") -> None:
    study = StudyFolder.read(folder)
    if study.labels is None or not study.results.tuning:
        raise InputError(f"{folder}: needs an index and a fusion with tuned λ")
    index, tuning = study.labels, study.results.tuning[0]
    names = [*tuning.single, tuning.multi]
    *single, multi = [load_predictions(study.folder / "predictions" / f"{name}.parquet") for name in names]
    sides = [score(fuse(single, multi, dict.fromkeys(tuning.lambdas, end)), index).tasks for end in (0.0, 1.0)]
    better = {task: max(side[task] for side in sides) for task in tuning.lambdas}
    print(f"{'better side':12}" + "".join(f"  {task} {value:.3f}" for task, value in better.items()))
    units, sources = number_sources(index["video"])
    gains = []
    for seed in range(int(splits)):
        first = np.random.default_rng(seed).permutation(sources)[: sources // 2]
        in_first = units.is_in(first.tolist())
        halves, fused, words = (index.filter(in_first), index.filter(~in_first)), [], []
        for scored, tuned in (halves, halves[::-1]):
            lambdas, _ = tune_fusion(single, multi, tuned)
            predictions = fuse(single, multi, lambdas)
            fused.append(predictions.filter(pl.col("image").is_in(scored["image"].implode())))
            words.append("/".join(f"{share:.2f}" for share in lambdas.values()))
        tasks = score(pl.concat(fused), index, resamples=0).tasks
        gains.append([tasks[task] - better[task] for task in better])
        line = "".join(f"  {task} {tasks[task]:.3f} ({tasks[task] - better[task]:+.3f})" for task in better)
        print(f"split {seed:<6}{line}  λ {words[0]} and {words[1]}")
    mean = "".join(f"  {task} {gain:+.4f}" for task, gain in zip(better, np.mean(gains, 0), strict=True))
    print(f"{'mean gain':12}{mean}")


if __name__ == "__main__":
    main(*sys.argv[1:])
