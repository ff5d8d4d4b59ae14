"""Batches ahead of the step: decoded by threads, or kept on the device and augmented there."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from triaffect.io import InputError
from triaffect.jobs import prefetch
from triaffect.training.augmentation import augment_batch
from triaffect.training.dataset import Batch, FrameDataset
from triaffect.training.sampling import EpochSampler


class BatchLoader:
    """Batches of a dataset in a sampler's order, decoded ahead by threads.

    Threads, since decoding, warping and reading release the interpreter: two of them make batches faster than two
    processes (docs/performance.md), without a copy, and nothing has to be forked or pickled.

    Args:
        dataset: Its keys are what the sampler yields.
        batch: Images per batch.
        workers: Number of threads; 0 decodes in the calling thread.
        sampler: The order; all rows in order by default.
        drop_last: Leave out an incomplete last batch.
    """

    batch_sampler = None  # Lightning looks for it next to `sampler`

    def __init__(
        self,
        dataset: FrameDataset,
        batch: int,
        workers: int,
        sampler: EpochSampler | None = None,
        drop_last: bool = False,
    ) -> None:
        self.dataset, self.batch, self.workers, self.drop_last = dataset, batch, workers, drop_last
        self.sampler = sampler or EpochSampler(len(dataset), shuffle=False)

    def __len__(self) -> int:
        return len(self.sampler) // self.batch if self.drop_last else -(-len(self.sampler) // self.batch)

    def __iter__(self) -> Iterator[Batch]:
        keys = self.sampler.keys()
        parts = (keys[i * self.batch : (i + 1) * self.batch] for i in range(len(self)))
        yield from prefetch(self._read, parts, self.workers)

    def _read(self, keys: np.ndarray) -> Batch:
        batch = self.dataset.__getitems__(keys)
        if torch.cuda.is_available():  # pinned memory is copied to the device while it computes
            return {k: v.pin_memory() if isinstance(v, Tensor) else v for k, v in batch.items()}
        return batch


class DeviceImages:
    """The images of a dataset on a device: decoded once, and augmented there one batch at a time.

    Args:
        dataset: Yields batches without images from here on.
        device: Where they stay; each takes size x size x 3 bytes.
        workers: Decoding threads.

    Raises:
        InputError: They do not fit.
    """

    def __init__(self, dataset: FrameDataset, device: torch.device, workers: int) -> None:
        shape = (len(dataset), dataset.size, dataset.size, 3)
        augmentation, dataset.augmentation = dataset.augmentation, None
        try:
            self.pixels = torch.empty(shape, dtype=torch.uint8, device=device)
        except RuntimeError:
            gigabytes = len(dataset) * dataset.size**2 * 3 / 1e9
            raise InputError(f"data.cache device needs {gigabytes:.1f} GB on {device}; set data.cache to ram") from None
        unreadable: dict[str, str] = {}
        for batch in BatchLoader(dataset, 256, workers):
            self.pixels[batch["row"].to(device)] = batch["image"].to(device).permute(0, 2, 3, 1)
            unreadable |= dict(batch["bad"])
        dataset.augmentation, dataset.on_device = augmentation, unreadable

    def __call__(self, batch: Batch) -> Batch:
        """Add the images (N, 3, size, size), uint8, to a batch."""
        pixels = self.pixels[batch["row"]].permute(0, 3, 1, 2)
        if "warp" in batch:
            pixels = augment_batch(pixels, batch.pop("warp"), batch.pop("colour"))
        return {**batch, "image": pixels}
