"""Crops per second that one core renders, with everything: people, poses, rays, shadows, textures, camera, JPEG.

Run with one thread: OMP_NUM_THREADS=1 python benchmarks/rendering.py MODEL [SIZE]
"""

import sys
import time

import cv2
import numpy as np
import simplejpeg

from triaffect.render.film import Studio
from triaffect.render.model import load_model


def main(model: str, size: int = 112, videos: int = 4, frames: int = 40) -> None:
    cv2.setNumThreads(1)
    start = time.perf_counter()
    studio = Studio(load_model(model))
    print(f"setting up: {time.perf_counter() - start:.1f} s")
    rates = []
    for video in range(videos):
        wall, cpu = time.perf_counter(), time.process_time()
        person, film, grain = np.random.SeedSequence([1, video]).spawn(3)
        filmed = studio.film(person, film, frames, 0.15)
        for picture in studio.pictures(filmed, grain, size):
            simplejpeg.encode_jpeg(picture, quality=80)
        rates.append((frames / (time.perf_counter() - wall), frames / (time.process_time() - cpu)))
        print(f"{size} px: {rates[-1][0]:.1f} crops/s by the clock, {rates[-1][1]:.1f} by CPU time")
    print("median:", *np.median(rates, axis=0).round(1))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
