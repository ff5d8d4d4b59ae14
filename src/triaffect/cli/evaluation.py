"""Verbs for predictions: fuse, tune, score, submit."""

from __future__ import annotations

from typing import Any, Literal

from triaffect import text
from triaffect.labels import TASK_NAMES


def fuse(
    files: list[str],
    out: str = "fused.parquet",
    weights: list[float] | None = None,
    lambda_va: float | None = None,
    lambda_expr: float | None = None,
    lambda_au: float | None = None,
    tune: str | None = None,
    split: str | None = None,
    seed: int = 0,
    post: str | None = None,
) -> None:
    """Fuse single-task with multi-task predictions, λ·single + (1-λ)·multi, or average any number of models.

    Args:
        files: Predictions files: single-task files with different tasks, then the multi-task file.
        out: The predictions file to write.
        weights: Average the files instead, with one weight per file.
        lambda_va: λ of valence-arousal; 0.4 by default, as in Chang et al. 2022.
        lambda_expr: λ of expression; 0.6 by default.
        lambda_au: λ of action units; 0.6 by default.
        tune: An index (or annotations) to choose λ on.
        split: With tune, only this split of it.
        seed: With tune, the seed of the folds.
        post: Post-processing to apply to the result, from `triaffect tune`.
    """
    from triaffect.data.index import provenance
    from triaffect.data.predictions import save_predictions
    from triaffect.metrics.fusion import fuse_files
    from triaffect.metrics.postprocess import PostProcessing

    post_processing = PostProcessing.load(post) if post else None
    options = {"va": lambda_va, "expr": lambda_expr, "au": lambda_au}
    lambdas = {task: value for task, value in options.items() if value is not None}
    fused = fuse_files(files, weights=weights, lambdas=lambdas, tune=tune, split=split, seed=seed)
    details: dict[str, Any] = {"sources": {file: provenance(file) for file in files}}
    details |= {"weights": list(weights)} if weights is not None else {"lambdas": fused.lambdas}
    if fused.tuning:
        details |= {"tuned_on": tune, "split": split, "folds": fused.tuning.folds, "seed": seed}
        print(f"{fused.tuning.table()}\n")
    save_predictions(fused.predictions, out, {"fusion": details})
    if post_processing:
        post_processing.apply_to_file(out)
    for task, shares in fused.weights.items():
        print(f"{TASK_NAMES[task]}: {' + '.join(f'{share:.2f} {file}' for file, share in shares.items())}")
    print(f"{out}: {text.plural(fused.predictions.height, 'image')}")


def tune(
    predictions: str,
    index: str,
    out: str = "post.json",
    split: str | None = None,
    folds: int = 5,
    seed: int = 0,
    classes: Literal[7, 8] = 8,
) -> None:
    """Fit smoothing, scaling, class biases and AU thresholds on labelled videos, and report the cross-fitted gain.

    Args:
        predictions: A predictions file.
        index: Labels of those images: an index file, or annotations.
        out: The file to write, for --post of predict, fuse, analyze and submit.
        split: Only this split of the index.
        folds: Maximum number of folds of videos.
        seed: Seed of the folds.
        classes: Number of expressions to average over; 7 for data without Other.
    """
    from dataclasses import replace

    from triaffect.metrics.tuning import tune

    tuned = tune(predictions, index, split=split, folds=folds, seed=seed, classes=classes)
    source = {"predictions": predictions, "index": index, "split": split, "seed": seed, **tuned.summary()}
    replace(tuned.post, source=source).save(out)
    print(f"{tuned.table()}\n\n{out}: use it as --post of predict, fuse, analyze or submit")


def score(
    predictions: str,
    index: str,
    split: str | None = None,
    json: bool = False,
    by: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
    classes: Literal[7, 8] = 8,
) -> None:
    """Score predictions by the official measures, with trivial baselines and 95 % intervals over videos.

    Args:
        predictions: A predictions file, or an ABAW submission in text.
        index: An index file, or an ABAW annotation file or tree.
        split: Only this split of the index.
        json: Print JSON.
        by: Also score each group of this index column (sex, skin tone, video), with the worst group and the gap.
        resamples: Number of resamples of the videos for the 95 % intervals; 0 for no intervals.
        seed: Seed of the resamples.
        classes: Number of expressions to average over; 7 for data without Other.
    """
    from json import dumps

    from triaffect.metrics.scores import score

    scores = score(predictions, index, split=split, by=by, resamples=resamples, seed=seed, classes=classes)
    print(dumps(scores.to_dict(), indent=1) if json else scores.table())


def submit(
    predictions: str,
    release_list: str,
    track: str = "mtl",
    out: str = "submission.txt",
    thresholds: list[float] | None = None,
    post: str | None = None,
    split: str | None = None,
) -> None:
    """Write predictions as an ABAW submission, in the order of the organisers' list.

    Args:
        predictions: The predictions file.
        release_list: The organisers' list of images (or of videos, for the per-video tracks), or an index.
        track: mtl, va, expr, au; or one text file per video: va-videos, expr-videos, au-videos.
        out: The text file to write; the folder, for the per-video tracks.
        thresholds: Thresholds of the AU probabilities, one or twelve; 0.5 by default.
        post: Post-processing to apply first, from `triaffect tune`; `thresholds` apply after its own.
        split: The split of an index to write; by default its test split, or all of it if it has none.
    """
    from triaffect.data.submission import write_submission

    table: Any = predictions
    if post:
        from triaffect.data.predictions import load_predictions
        from triaffect.metrics.postprocess import PostProcessing

        table = PostProcessing.load(post).apply(load_predictions(predictions))
    counts = write_submission(table, release_list, out, track, thresholds, split)
    rows, videos = text.plural(counts["rows"], "row"), text.plural(counts["videos"], "video")
    print(f"{out}: {rows} of {videos}, {counts['filled']:,} filled")
