"""A detector and a model with predictable output, and small photos and videos of every kind."""

import numpy as np
import simplejpeg

from triaffect.inference.analyzer import Analyzer
from triaffect.inference.detect import Face
from triaffect.inference.video_writer import VideoWriter


def find(pixels):
    """One face in the middle of each picture that is not dark, a second one where the right half is blue."""
    h, w = pixels.shape[:2]
    if pixels.mean() < 20:
        return []
    if h > 20 and pixels[:, w // 2 :, 2].mean() > 180 > pixels[:, w // 2 :, 0].mean():
        boxes = [(w * 0.05, h * 0.2, w * 0.35, h * 0.5), (w * 0.6, h * 0.2, w * 0.25, h * 0.4)]
    else:
        boxes = [(w * 0.25, h * 0.25, w * 0.5, h * 0.5)]
    return [Face(box, None, 0.9) for box in boxes]


class Model:
    """Valence follows red, arousal green, happiness blue; AU12 is active where red is bright."""

    name, size, tasks = "made up", 32, ("va", "expr", "au")

    def __init__(self):
        self.batches = []

    def __call__(self, crops):
        self.batches.append(len(crops))
        red, green, blue = (crops.mean((1, 2)) / 255).astype(np.float32).T
        expr = np.repeat(((1 - blue) / 7)[:, None], 8, 1)
        expr[:, 4] = blue
        au = np.full((len(crops), 12), 0.1, np.float32)
        au[:, 6] = red
        return {"va": np.stack([red, green], 1) * 2 - 1, "expr": expr, "au": au}


def analyzer(**options):
    return Analyzer(Model(), detector=find, **options)


def plain(red=120, green=120, blue=120, size=(64, 48)):
    return np.full((size[1], size[0], 3), (red, green, blue), np.uint8)


def jpeg(path, pixels=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(simplejpeg.encode_jpeg(plain() if pixels is None else pixels, 95, colorsubsampling="444"))
    return path


def film(path, count=30, fps=30, pixels=lambda i: plain(8 * i % 256), times=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path) as writer:
        for i in range(count):
            writer.write(pixels(i), times[i] if times else i / fps)
    return path


def remux(source, target, **options):
    """The same packets in another container."""
    import av

    with av.open(str(source)) as old, av.open(str(target), "w", options=options) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    return target
