"""Verbs for models: train, predict, features, export."""

from __future__ import annotations

import json
from functools import partial
from typing import Any, Literal

from triaffect import text


def train(out: str, resume: bool = False, **config: Any) -> None:
    """Train a single-task or a multi-task model and evaluate it by the official measures after each epoch.

    Args:
        out: The run folder to make.
        resume: Continue the run in that folder, with the config that it holds.
        **config: The keys of `TrainConfig`.
    """
    from triaffect.training.config import TrainConfig

    config.pop("config")
    checked = TrainConfig(**config).checked()
    from triaffect.training.trainer import train

    run = train(checked, out, resume)
    model = json.loads((run / "model" / "config.json").read_text(encoding="utf-8"))
    if weights := model["provenance"].get("weights"):
        print(f"backbone from {weights['source']}, licence: {weights['licence']}")
    print(f"{run}: model in {run}/model, scores in {run}/metrics.csv, curves in {run}/curves.png")


def predict(
    model: str,
    index: str,
    out: str = "predictions.parquet",
    split: str | None = None,
    images: str | None = None,
    fill: Literal["none", "nearest", "linear"] = "none",
    batch: int = 128,
    workers: int = 2,
    backend: Literal["auto", "onnx", "openvino", "torch"] = "auto",
    device: str = "auto",
    post: str | None = None,
    jobs: int = 1,
    ray: str | None = None,
) -> None:
    """Predict the images of an index with a trained model, an exported one, or a peer's.

    Args:
        model: A run or model folder, triaffect-base, a file that export wrote (.onnx, .xml), or a peer:
            emotiefflib:enet_b0_8_va_mtl and the like, fer, mediapipe:PATH of a face_landmarker.task, pyfeat.
        index: The index, or a table with its columns.
        out: The predictions file to write.
        split: Only the frames of train, val or test.
        images: The folder of the images, or a packed file; by default the folder the index was made with.
        fill: Where there is no crop, nearest repeats the nearest predicted frame of the video, linear interpolates
            valence and arousal; the column filled marks those rows.
        batch: Images per step.
        workers: Decoding threads.
        backend: What runs the model; auto is torch for a run or model folder that was not exported, else OpenVINO if it
            is installed, else ONNX Runtime.
        device: Device of torch: auto, cpu, cuda and the like.
        post: Post-processing to apply, from `triaffect tune`.
        jobs: Number of processes that share the index.
        ray: Work on a Ray cluster: auto (the one that this machine is part of), its address, or local.
    """
    from triaffect.data.index import image_root, load_index
    from triaffect.data.predictions import save_predictions
    from triaffect.inference.predict import open_predictor
    from triaffect.inference.predict import predict as run
    from triaffect.jobs import PerProcess, threads_each
    from triaffect.metrics.postprocess import PostProcessing

    post_processing = PostProcessing.load(post) if post else None
    rows = load_index(index, split)
    root = image_root(index, images)
    shared = PerProcess(partial(open_predictor, model, backend, device, threads=threads_each(jobs, ray)))
    opened = shared.get()
    table = run(shared, rows, root, fill=fill, batch=batch, workers=workers, device=device, jobs=jobs, ray=ray)
    source = {"model": model, "backend": opened.name, "index": index, "split": split, "fill": fill}
    save_predictions(table, out, {**source, "trained": getattr(opened, "provenance", {})})
    if post_processing:
        post_processing.apply_to_file(out)
    missing = rows["image"].n_unique() - len(table)
    print(
        f"{out}: {text.plural(len(table), 'image')}"
        + (f"; {missing:,} without a prediction (see --fill)" if missing else "")
    )


def features(
    model: str,
    index: str,
    out: str = "features",
    split: str | None = None,
    images: str | None = None,
    batch: int = 128,
    workers: int = 2,
    device: str = "auto",
    jobs: int = 1,
    ray: str | None = None,
    shard: str = "1/1",
) -> None:
    """Compute the backbone's features of every image once; a stopped call continues where it was.

    Args:
        model: A run folder or a model folder.
        index: The index, or a table with its columns.
        out: The folder to make: features.npy (float16) and images.parquet, in the same order.
        split: Only the frames of train, val or test.
        images: The folder of the images, or a packed file; by default the folder the index was made with.
        batch: Images per step.
        workers: Decoding threads.
        device: auto, cpu, cuda and the like.
        jobs: Number of processes that share the images.
        ray: Work on a Ray cluster: auto (the one that this machine is part of), its address, or local.
        shard: Part of the images to work on, such as 2/10, for calls on several machines with the same OUT.
    """
    from triaffect.data.index import image_root, load_index
    from triaffect.jobs import read_shard
    from triaffect.training.features import extract_features, load_features

    rows, part = load_index(index, split), read_shard(shard)
    options: Any = {"batch": batch, "workers": workers, "device": device, "jobs": jobs, "ray": ray, "shard": part}
    folder = extract_features(model, rows, image_root(index, images), out, **options)
    if not (folder / "features.npy").is_file():
        print(f"{out}: the parts of shard {shard} are done; the call that finds all parts joins them")
        return
    shape = load_features(out)[1].shape
    print(f"{out}: {shape[0]:,} images, {shape[1]:,} features each")


def export(
    model: str,
    out: str | None = None,
    format: Literal["onnx", "openvino"] = "onnx",  # noqa: A002
    int8: bool = False,
    crops: str | None = None,
    split: str | None = None,
    licence: str | None = None,
) -> None:
    """Write a model as one file with its preprocessing, labels and provenance inside, and compare it with torch.

    Args:
        model: A run folder, a model folder, or triaffect-base.
        out: The file to write; model.onnx or model.xml in this folder by default.
        format: onnx or openvino.
        int8: Quantise to 8 bits: smaller and faster, a little less exact.
        crops: Crops to calibrate and compare on: a folder, or an index, which also shows the scores before and after;
            by default crops of the bundled sample.
        split: With an index, only this split.
        licence: Licence of the model, to write into the file.
    """
    from triaffect.inference.export import SUFFIXES, export

    path = out or f"model{SUFFIXES[format]}"
    print(export(model, path, format, int8=int8, crops=crops, split=split, licence=licence).text())
