"""Verbs for models: train, predict, export, compare."""

from __future__ import annotations

from typing import Any, Literal


def train(out: str, resume: bool = False, **config: Any) -> None:
    """Trains a single-task or a multi-task model and judges it by the official measures after each epoch.

    Args:
        out: The run folder to make.
        resume: Continue the run in that folder, with the configuration that it holds.
        **config: What the options and the recipe make of `TrainConfig`.
    """
    from triaffect.training.config import TrainConfig

    config.pop("config")
    settings = TrainConfig(**config).checked()
    from triaffect.training.trainer import train

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
    from triaffect.metrics.postprocess import apply_file, load_post

    known = load_post(post) if post else None
    from triaffect.data.index import load_index
    from triaffect.data.predictions import save_predictions

    rows = load_index(index, split)
    from triaffect.data.index import image_root
    from triaffect.inference.backends import predict_images
    from triaffect.inference.peers import predictor

    root = image_root(index, images)
    source: dict[str, Any] = {"model": str(run), "index": str(index), "split": split, "fill": fill}
    if engine := predictor(run, rows.height):
        found = predict_images(engine, rows, root, fill=fill)
        source["engine"] = engine.name
    else:
        from triaffect.inference.predict import load_model, predict

        model = load_model(run)
        found = predict(model, rows, root, fill=fill, batch=batch, workers=workers, device=device)
        source["trained"] = model.provenance
    save_predictions(found, out, source)
    if known:
        apply_file(out, known)
    missing = rows["image"].n_unique() - len(found)
    print(f"{out}: {len(found)} images" + (f"; {missing} without a prediction (see --fill)" if missing else ""))


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
    from triaffect.data.index import load_index

    rows = load_index(index, split)
    from triaffect.training.dataset import image_root
    from triaffect.training.features import extract_features, load_features

    root = image_root(index, images)
    extract_features(run, rows, root, out, batch=batch, workers=workers, device=device)
    found = load_features(out)[1]
    print(f"{out}: {found.shape[0]:,} images, {found.shape[1]:,} features each")


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
    from triaffect.inference.export import SUFFIXES, export

    path = out or f"model{SUFFIXES[format]}"
    print(export(model, path, format, int8=int8, crops=crops, split=split, licence=licence).text())
