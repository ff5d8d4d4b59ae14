"""Batches ahead of the step: decoded by threads, or kept on the device and augmented there."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from triaffect.io import InputError
from triaffect.training.dataset import Batch, EpochSampler, FrameDataset
from triaffect.training.sampling import Draw


class Batches:
    """Batches of a dataset in a sampler's order, decoded ahead by `workers` threads.

    Threads, since decoding, warping and reading leave the interpreter to others: on two of them batches come faster
    than through two processes (docs/performance.md), without a copy, and nothing has to be forked or pickled.

    Args:
        dataset: Its keys are what the sampler draws.
        batch: Images a batch.
        workers: Threads; 0 decodes when asked.
        sampler: The order.
        drop_last: Leave an incomplete last batch out.
    """

    batch_sampler = None  # Lightning looks for it beside `sampler`

    def __init__(self, dataset: FrameDataset, batch: int, workers: int, sampler: EpochSampler, drop_last: bool) -> None:
        self.dataset, self.batch, self.workers = dataset, batch, workers
        self.sampler, self.drop_last = sampler, drop_last

    def __len__(self) -> int:
        return len(self.sampler) // self.batch if self.drop_last else -(-len(self.sampler) // self.batch)

    def __iter__(self) -> Iterator[Batch]:
        keys = list(self.sampler)
        parts = (keys[i * self.batch : (i + 1) * self.batch] for i in range(len(self)))
        if not self.workers:
            yield from map(self._read, parts)
            return
        with ThreadPoolExecutor(self.workers, "decode") as pool:
            ahead = deque(pool.submit(self._read, part) for part in islice(parts, 2 * self.workers))
            try:
                while ahead:
                    batch = ahead.popleft().result()
                    ahead.extend(pool.submit(self._read, part) for part in islice(parts, 1))
                    yield batch
            finally:
                pool.shutdown(cancel_futures=True)

    def _read(self, keys: list[int]) -> Batch:
        batch = self.dataset.__getitems__(keys)
        if torch.cuda.is_available():  # pinned memory goes to the device while it computes
            return {k: v.pin_memory() if isinstance(v, Tensor) else v for k, v in batch.items()}
        return batch


def loader(
    dataset: FrameDataset,
    batch: int,
    workers: int,
    shuffle: bool = False,
    seed: int = 0,
    rank: int = 0,
    world: int = 1,
    draw: Draw | None = None,
) -> Batches:
    """The batches of one process's share of a dataset; shuffled ones are full, where there is a full one at all."""
    sampler = EpochSampler(len(dataset), shuffle, seed, rank, world, draw)
    # A last batch of one image would break batch norm.
    return Batches(dataset, batch, workers, sampler, drop_last=shuffle and len(sampler) >= batch)


class Resident:
    """The pictures of a dataset on a device, decoded once, and augmented there a batch at a time.

    Args:
        dataset: Gives batches without pictures from here on.
        device: Where they stay: size x size x 3 bytes each.
        workers: Threads that decode.

    Raises:
        InputError: They do not fit.
    """

    def __init__(self, dataset: FrameDataset, device: torch.device, workers: int) -> None:
        shape = (len(dataset), dataset.size, dataset.size, 3)
        plain, dataset.augmentation = dataset.augmentation, None
        try:
            self.pixels = torch.empty(shape, dtype=torch.uint8, device=device)
        except RuntimeError:
            gigabytes = len(dataset) * dataset.size**2 * 3 / 1e9
            raise InputError(f"data.cache device needs {gigabytes:.1f} GB on {device}; set data.cache to ram") from None
        bad: dict[str, str] = {}
        for batch in loader(dataset, 256, workers):
            self.pixels[batch["row"].to(device)] = batch["image"].to(device).permute(0, 2, 3, 1)
            bad |= dict(batch["bad"])
        dataset.augmentation, dataset.resident = plain, bad

    def __call__(self, batch: Batch) -> Batch:
        """The batch with its pictures, (N, 3, size, size), uint8."""
        pixels = self.pixels[batch["row"]].permute(0, 3, 1, 2)
        if "warp" in batch:
            pixels = augment(pixels, batch.pop("warp"), batch.pop("colour"))
        return {**batch, "image": pixels}


def augment(pixels: Tensor, warp: Tensor, colour: Tensor) -> Tensor:
    """What `Augmentation` does to each picture, for a batch on any device, without its roundings between the two steps.

    Args:
        pixels: (N, 3, size, size), uint8.
        warp: (N, 2, 3), from a pixel of the result to one of the picture.
        colour: (N, 3, 4), of the channels and a constant.
    """
    size, centre = pixels.shape[-1], (pixels.shape[-1] - 1) / 2
    # grid_sample counts from -1 to 1 across the picture.
    shift = (warp[:, :, :2].sum(2) * centre + warp[:, :, 2] - centre) / centre
    grid = F.affine_grid(torch.cat([warp[:, :, :2], shift[:, :, None]], 2), list(pixels.shape), align_corners=True)
    moved = F.grid_sample(pixels.float(), grid, padding_mode="border", align_corners=True)
    mixed = torch.baddbmm(colour[:, :, 3:], colour[:, :, :3], moved.flatten(2)).view(-1, 3, size, size)
    return mixed.round().clamp(0, 255).byte().contiguous(memory_format=torch.channels_last)
