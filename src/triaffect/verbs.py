"""What `triaffect VERB` does: one thin function a verb, its signature the options, its docstring the help.

Heavy imports stay inside, so that a verb loads only what it needs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from triaffect.files import InputError


def sample(folder: str) -> None:
    """Copies out the bundled sample: 1,584 rendered faces in the raw layout of Aff-Wild2.

    Args:
        folder: New or empty folder to put it in.
    """
    from triaffect.sample import sample

    print(f"{sample(folder)}: now `triaffect index {folder} --out index.parquet`")


def render(
    model: str | None = None,
    out: str = "renders",
    videos: int = 40,
    frames: int = 60,
    seed: int = 0,
    size: int = 112,
    seconds: float = 0.15,
    val: float = 0.25,
    irregular: list[str] | None = None,
    ranges: str | None = None,
    layout: str = "both",
    processes: int = 1,
    pack: str | None = None,
) -> None:
    """Renders videos of made-up faces with exact labels, in the layout of Aff-Wild2; a stopped run is resumed.

    Args:
        model: ICT-FaceKit: its folder of OBJ files or the packed file; the variable TRIAFFECT_ICT where left out.
        out: Folder of the data set.
        videos: Number of videos, each of another person.
        frames: Frames a video.
        seed: Decides everything.
        size: Side of a crop in pixels.
        seconds: Time between two frames.
        val: Part of the videos in the validation split.
        irregular: Faults of the real set to have: annotations, crops, tasks, lengths, pair, or all.
        ranges: YAML file of the ranges to change (docs/rendering.md lists them).
        layout: affwild2 (a file for each video and task), s-affwild2 (a file for each split), or both.
        processes: How many videos are rendered at once.
        pack: Only pack the folder of OBJ files into this file.
    """
    from triaffect.render.dataset import FAULTS, Plan, read_ranges, render

    if pack:
        from triaffect.render.model import pack_model

        print(pack_model(model, pack))
        return
    faults = tuple(FAULTS) if irregular == ["all"] else tuple(irregular or ())
    plan = Plan(videos, frames, seed, size, seconds, val, faults, read_ranges(ranges))
    print(render(model, out, plan, processes=processes, layout=layout))


def index(
    root: str,
    images: str | None = None,
    out: str = "index.parquet",
    format: str = "auto",  # noqa: A002
) -> None:
    """Reads annotations in any layout into one table with a row a frame.

    Args:
        root: The folder of the annotations, or one file: s-Aff-Wild2, a release list, a CSV or Parquet table.
        images: The folder that holds the crops' folders; where left out, they are looked for beside the annotations.
        out: The index to write, Parquet.
        format: What to read: auto, per-video, mtl (s-Aff-Wild2, ABAW3), list or table.
    """
    from triaffect.annotations.index import read_annotations, save_index
    from triaffect.annotations.statistics import leak_lines, statistics, summary

    reading = read_annotations(root, images, format)
    save_index(reading.index, out, root=root, images=reading.images, format=reading.format)
    print(summary(statistics(reading.index)))
    for line in reading.notice_lines() + leak_lines(reading.index):
        print(f"note: {line}")
    print(f"{out}: {reading.index.height:,} rows, format {reading.format}, images {reading.images or 'unknown'}")


def stats(index: str, split: str | None = None, json: bool = False, plots: str | None = None) -> None:
    """Counts an index: splits, missing labels, class and AU balance, weights, V-A, leaks between its splits.

    Args:
        index: An index file, a table, or annotations.
        split: Only this split.
        json: Print everything as JSON, with the V-A density.
        plots: Also draw it: the folder for the pictures (expressions, action units, V-A density, missing labels).
    """
    from json import dumps

    from triaffect.annotations.index import load_index
    from triaffect.annotations.statistics import leak_lines, leaks, statistics, tables

    rows = load_index(index, split)
    found = statistics(rows)
    print(dumps({"splits": found, "leaks": leaks(rows)}, indent=1) if json else tables(found))
    if plots is not None:
        from triaffect.scoring.plots import save_figure, statistics_figures

        for name, figure in statistics_figures(found).items():
            save_figure(figure, Path(plots) / f"{name}.png")
    for line in [] if json else leak_lines(rows):
        print(f"warning: {line}")


def leaks(a: str, b: str, split_a: str | None = None, split_b: str | None = None) -> int:
    """Finds source videos that stand in two indexes, also as the other person (_left, _right) of the same video.

    Args:
        a: An index file, a table, or annotations.
        b: Another.
        split_a: Only this split of the first.
        split_b: Only this split of the second.
    """
    from triaffect.annotations.index import find_leaks, load_index

    leaks = find_leaks(load_index(a, split_a), load_index(b, split_b))
    for source, here, there in leaks.iter_rows():
        print(f"{source}: {', '.join(here)} | {', '.join(there)}")
    print(f"{leaks.height:,} source videos stand on both sides")
    return 1 if leaks.height else 0


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
    from triaffect.scoring.fusion import fuse_files
    from triaffect.scoring.postprocess import apply_file, load_post

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
    from triaffect.scoring.tuning import tune_files

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

    from triaffect.scoring.metrics import score

    found = score(predictions, index, split=split, by=by, resamples=resamples, seed=seed)
    print(dumps(found.to_dict(), indent=1) if json else found.table())


def show(
    index: str,
    images: str | None = None,
    out: str = "sheet.png",
    n: int = 20,
    task: Literal["va", "expr", "au"] | None = None,
    split: str | None = None,
    seed: int = 0,
) -> None:
    """Draws random crops with video, frame and annotations beside them, to check data and labels by eye.

    Args:
        index: An index file, a table, or annotations.
        images: The folder of the images; the one the index was made with where left out.
        out: The picture to write.
        n: How many crops.
        task: Only frames labelled for this task, and only its labels.
        split: Only this split.
        seed: Another seed draws other crops.
    """
    from triaffect.annotations.index import index_info, load_index
    from triaffect.scoring.plots import contact_sheet, save_figure

    root = images or index_info(index).get("images")
    if not root or not Path(root).is_dir():
        raise InputError(f"{root or index}: no folder of images; name it with --images")
    save_figure(contact_sheet(load_index(index), root, n, task, split, seed), out)
    print(out)


def export(
    model: str,
    out: str | None = None,
    format: Literal["onnx", "openvino"] = "onnx",  # noqa: A002
    int8: bool = False,
    crops: str | None = None,
    split: str | None = None,
    licence: str | None = None,
) -> None:
    """Writes a model as one file with its preprocessing, labels and provenance inside, and compares it with torch.

    Args:
        model: A run folder, a model folder, or triaffect-base.
        out: The file to write; model.onnx or model.xml here where left out.
        format: onnx or openvino.
        int8: Quantise to 8 bits: smaller and faster, a little less exact.
        crops: Crops to calibrate on and to compare by: a folder, or an index, which then shows the scores before and
            after; crops of the bundled sample where left out.
        split: With an index, only this split.
        licence: Of the model, to write into the file.
    """
    from triaffect.media.export import SUFFIXES, export

    path = out or f"model{SUFFIXES[format]}"
    print(export(model, path, format, int8=int8, crops=crops, split=split, licence=licence).text())


def submit(
    predictions: str,
    release_list: str,
    track: str = "mtl",
    out: str = "submission.txt",
    thresholds: list[float] | None = None,
    post: str | None = None,
) -> None:
    """Writes predictions as an ABAW submission, in the order of the organisers' list.

    Args:
        predictions: The predictions file.
        release_list: The organisers' list of images (or of videos, for the per-video tracks), or an index.
        track: mtl, va, expr, au, or one text file a video: va-videos, expr-videos, au-videos.
        out: The text file to write; the folder, for the per-video tracks.
        thresholds: Of the AU probabilities, one or twelve; 0.5 where left out.
        post: Post-processing to apply first, from `triaffect tune`; its AU thresholds come before `thresholds`.
    """
    from triaffect.annotations.submission import write_submission

    table: Any = predictions
    if post:
        from triaffect.annotations.predictions import load_predictions
        from triaffect.scoring.postprocess import apply

        table = apply(load_predictions(predictions), post)
    counts = write_submission(table, release_list, out, track, thresholds)
    print(f"{out}: {counts['rows']:,} rows of {counts['videos']:,} videos, {counts['filled']:,} of them filled")


def train(out: str, resume: bool = False, **config: Any) -> None:
    """Trains a single-task or a multi-task model and judges it by the official measures after each epoch.

    Args:
        out: The run folder to make.
        resume: Continue the run in that folder, with the configuration that it holds.
        **config: What the options and the recipe make of `TrainConfig`.
    """
    from triaffect.learning.config import TrainConfig

    config.pop("config")
    settings = TrainConfig(**config).checked()
    from triaffect.learning.training import train

    train(settings, out, resume)


def predict(
    run: str,
    index: str,
    out: str = "predictions.parquet",
    split: str | None = None,
    images: str | None = None,
    fill: Literal["none", "nearest"] = "none",
    batch: int = 128,
    workers: int = 2,
    device: str = "auto",
    post: str | None = None,
) -> None:
    """Predicts the images of an index with a trained model, an exported one, or a peer's.

    Args:
        run: A run or model folder, triaffect-base, a file that export wrote (.onnx, .xml), or a peer:
            emotiefflib:enet_b0_8_va_mtl and the like, fer, mediapipe:PATH of a face_landmarker.task.
        index: The index, or a generic table with its columns.
        out: The predictions file to write.
        split: Only the frames of train, val or test.
        images: The folder of the images, where the index does not know it.
        fill: nearest repeats the nearest predicted frame of the video where there is no crop, and marks it.
        batch: Images a step.
        workers: Threads that decode.
        device: auto, cpu, cuda and the like.
        post: Post-processing to apply, from `triaffect tune`.
    """
    from triaffect.scoring.postprocess import apply_file, load_post

    known = load_post(post) if post else None
    from triaffect.annotations.index import load_index
    from triaffect.annotations.predictions import save_predictions

    rows = load_index(index, split)
    from triaffect.annotations.index import image_root
    from triaffect.media.engines import predict_images
    from triaffect.media.peers import predictor

    root = image_root(index, images)
    source: dict[str, Any] = {"model": str(run), "index": str(index), "split": split, "fill": fill}
    if engine := predictor(run, rows.height):
        found = predict_images(engine, rows, root, fill=fill)
        source["engine"] = engine.name
    else:
        from triaffect.learning.inference import load_model, predict

        model = load_model(run)
        found = predict(model, rows, root, fill=fill, batch=batch, workers=workers, device=device)
        source["trained"] = model.provenance
    save_predictions(found, out, source)
    if known:
        apply_file(out, known)
    missing = rows["image"].n_unique() - len(found)
    print(f"{out}: {len(found)} images" + (f"; {missing} without a prediction (see --fill)" if missing else ""))


def analyze(
    inputs: list[str],
    out: str | None = None,
    annotate: bool = False,
    plot: bool = False,
    cropped: bool = False,
    every: int = 1,
    fps: float | None = None,
    max_faces: int | None = None,
    model: str = "triaffect-base",
    engine: Literal["auto", "onnx", "openvino", "torch"] = "auto",
) -> int:
    """Describes every face of photos, videos or a camera by valence, arousal, expression and action units.

    Args:
        inputs: Photos, videos, folders with all below them, globs, or the number of a camera (Ctrl-C ends it).
        out: Folder for faces.csv and faces.parquet, a row a face; where left out the findings are only printed.
        annotate: Write each picture or video again into out/annotated, with the findings drawn on it.
        plot: Draw each video's time lines into out/plots.
        cropped: The pictures are ready crops, one face each.
        every: Of a video, only each so-manieth frame.
        fps: Of a video, at most so many frames a second.
        max_faces: Only the largest so many faces of a picture.
        model: triaffect-base, a run or model folder, or a file from `triaffect export`.
        engine: What runs the model; auto takes the fastest that is installed.
    """
    from triaffect.media.analyzer import Analyzer
    from triaffect.media.batch import analyze

    def make(faces: int | None) -> Analyzer:
        return Analyzer(model, engine=engine, max_faces=max_faces, faces=faces)

    return analyze(inputs, out, make=make, annotated=annotate, plots=plot, cropped=cropped, every=every, fps=fps)


def page(port: int = 7860, model: str = "triaffect-base", engine: str = "auto", browser: bool = False) -> None:
    """Opens a web page on this machine: drop a photo or video, or use the camera, and see what is found.

    Args:
        port: Of 127.0.0.1, where the page is served, and nowhere else.
        model: triaffect-base, a run or model folder, or a file from `triaffect export`.
        engine: auto, onnx, openvino or torch.
        browser: Open it in the browser.
    """
    from triaffect.media.demo import page

    page(port, model, engine, browser)


def pack(index: str, out: str = "crops.safetensors", split: str | None = None, images: str | None = None) -> None:
    """Puts the images of an index into one file, which --images and data.images take in place of their folder.

    Args:
        index: The index, or a generic table with its columns.
        out: The file to write, .safetensors: the images as they are, one after the other, and where each begins.
        split: Only the frames of train, val or test.
        images: The folder of the images, where the index does not know it.
    """
    from triaffect.annotations.index import image_root, load_index
    from triaffect.learning.pack import pack

    if not out.endswith(".safetensors"):
        raise InputError(f"{out}: is to end in .safetensors, the format that it is")
    found = pack(load_index(index, split), image_root(index, images), out)
    for name in found["skipped"][:3]:
        print(f"note: {name} cannot be read, and is left out")
    print(f"{out}: {found['images']:,} images, {found['bytes'] / 1e6:,.1f} MB; {len(found['skipped']):,} left out")


def features(
    run: str,
    index: str,
    out: str = "features",
    split: str | None = None,
    images: str | None = None,
    batch: int = 128,
    workers: int = 2,
    device: str = "auto",
) -> None:
    """Computes the backbone's features of every image once; a stopped call goes on where it was.

    Args:
        run: A run folder or a model folder.
        index: The index, or a generic table with its columns.
        out: The folder to make: features.npy (float16) and images.parquet, in the same order.
        split: Only the frames of train, val or test.
        images: The folder of the images, where the index does not know it.
        batch: Images a step.
        workers: Threads that decode.
        device: auto, cpu, cuda and the like.
    """
    from triaffect.annotations.index import load_index

    rows = load_index(index, split)
    from triaffect.learning.dataset import image_root
    from triaffect.learning.features import extract_features, load_features

    root = image_root(index, images)
    extract_features(run, rows, root, out, batch=batch, workers=workers, device=device)
    found = load_features(out)[1]
    print(f"{out}: {found.shape[0]:,} images, {found.shape[1]:,} features each")


def study(
    recipe: str,
    index: str = "index.parquet",
    images: str | None = None,
    out: str = "study",
    set: list[str] | None = None,  # noqa: A002
    jobs: int = 1,
    search: int = 0,
) -> int:
    """Runs a recipe: trains, predicts, fuses, scores, compares, and writes report.html; a stopped study goes on.

    Args:
        recipe: A YAML file, or the name of a bundled recipe (chang2022, asim2024, demo ...).
        index: The index that every run reads.
        images: The folder of the images, where the index does not know it.
        out: The study folder to make, or to go on with.
        set: Keys of the recipe to change, such as base.model.backbone=resnet18 runs.va.training.lr=1e-4.
        jobs: Runs at once, each on a GPU of its own where there are several.
        search: Trials of the recipe's hyper-parameter search, in all.
    """
    from triaffect.learning.study import study

    return 1 if study(recipe, index, images, out, changes=set or (), jobs=jobs, search=search)["failures"] else 0


def report(study: str) -> None:
    """Makes the page of a study again: one HTML file with scores, tests, figures and the commands that redo it.

    Args:
        study: The folder that `triaffect study` made.
    """
    from triaffect.scoring.report import report

    print(report(study))


def demo(out: str = "demo", set: list[str] | None = None) -> int:  # noqa: A002
    """Goes from the bundled sample's raw annotations to models, fusion, scores and a report; a stopped demo goes on.

    Args:
        out: The folder for everything.
        set: Keys of the recipe to change, such as base.training.epochs=3.
    """
    from triaffect.learning.demo import demo

    return 1 if demo(out, changes=set or ())["failures"] else 0
