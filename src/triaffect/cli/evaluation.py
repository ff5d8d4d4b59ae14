"""Verbs for predictions: fuse, tune, score, submit."""

from __future__ import annotations

from typing import Any


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
    """Fuses single-task with multi-task predictions, λ·single + (1-λ)·multi, or averages any number of models.

    Args:
        files: Predictions: single-task files, each task in one of them, and the multi-task file last.
        out: The predictions file to write.
        weights: Take the weighted mean of the files instead, one weight a file.
        lambda_va: λ of valence-arousal; the first paper's 0.4 where left out.
        lambda_expr: λ of expression; 0.6 where left out.
        lambda_au: λ of action units; 0.6 where left out.
        tune: An index (or annotations) to tune λ on.
        split: With tune, only this split of it.
        seed: With tune, of the folds.
        post: Post-processing to apply to the result, from `triaffect tune`.
    """
    from triaffect.metrics.fusion import fuse_files
    from triaffect.metrics.postprocess import apply_file, load_post

    known = load_post(post) if post else None

    given = {"va": lambda_va, "expr": lambda_expr, "au": lambda_au}
    lambdas = {task: share for task, share in given.items() if share is not None}
    print(fuse_files(files, out, weights=weights, lambdas=lambdas, tune=tune, split=split, seed=seed))
    if known:
        apply_file(out, known)


def tune(
    predictions: str, index: str, out: str = "post.json", split: str | None = None, folds: int = 5, seed: int = 0
) -> None:
    """Fits smoothing, V-A moments, class biases and AU thresholds, and says by cross-fitting what they are worth.

    Args:
        predictions: A predictions file.
        index: Labels of those images: an index file, or annotations.
        out: The file to write, for --post of predict, fuse, analyze and submit.
        split: Only this split of the index.
        folds: Into how many parts the videos are dealt, at most.
        seed: Of the folds.
    """
    from triaffect.metrics.tuning import tune_files

    print(tune_files(predictions, index, out, split=split, folds=folds, seed=seed))


def score(
    predictions: str,
    index: str,
    split: str | None = None,
    json: bool = False,
    by: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> None:
    """Scores predictions by the official measures, with floors of trivial predictors and intervals over videos.

    Args:
        predictions: A predictions file, or an ABAW submission in text.
        index: An index file, or an ABAW annotation file or tree.
        split: Only this split of the index.
        json: Print JSON.
        by: Also score each group of this index column (sex, skin tone, video), with the worst group and the gap.
        resamples: Resamples of the videos behind the 95 % intervals; 0 for none.
        seed: Of the resamples.
    """
    from json import dumps

    from triaffect.metrics.scores import score

    found = score(predictions, index, split=split, by=by, resamples=resamples, seed=seed)
    print(dumps(found.to_dict(), indent=1) if json else found.table())


def submit(
    predictions: str,
    release_list: str,
    track: str = "mtl",
    out: str = "submission.txt",
    thresholds: list[float] | None = None,
    post: str | None = None,
    split: str | None = None,
) -> None:
    """Writes predictions as an ABAW submission, in the order of the organisers' list.

    Args:
        predictions: The predictions file.
        release_list: The organisers' list of images (or of videos, for the per-video tracks), or an index.
        track: mtl, va, expr, au, or one text file a video: va-videos, expr-videos, au-videos.
        out: The text file to write; the folder, for the per-video tracks.
        thresholds: Of the AU probabilities, one or twelve; 0.5 where left out.
        post: Post-processing to apply first, from `triaffect tune`; its AU thresholds come before `thresholds`.
        split: The split of an index to write; by default its test split, or all of it if it has none.
    """
    from triaffect.data.submission import write_submission

    table: Any = predictions
    if post:
        from triaffect.data.predictions import load_predictions
        from triaffect.metrics.postprocess import apply

        table = apply(load_predictions(predictions), post)
    counts = write_submission(table, release_list, out, track, thresholds, split)
    print(f"{out}: {counts['rows']:,} rows of {counts['videos']:,} videos, {counts['filled']:,} of them filled")
