"""The training loop's parts for Lightning: batches, steps, learning rates, and the official measures of each epoch."""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR, LinearLR, ReduceLROnPlateau
from tqdm import tqdm

from triaffect.io import InputError
from triaffect.labels import VA, loss_key, score_key
from triaffect.metrics.measures import TASK_SCORES
from triaffect.training.config import TrainConfig
from triaffect.training.dataset import Batch, FrameDataset
from triaffect.training.distributed import blank_rows, gather_outputs, gather_rows
from triaffect.training.gradient_balancing import CONFLICT_INTERVAL, Balancing
from triaffect.training.label_coupling import Coupling
from triaffect.training.loader import BatchLoader, DeviceImages
from triaffect.training.losses import TaskLosses, labelled_expressions
from triaffect.training.model import AffectModel, probabilities
from triaffect.training.run_folder import draw_curves, energy_joules, epoch_line, make_optimizer, write_metrics
from triaffect.training.sampling import WINDOW, Draw, EpochSampler
from triaffect.training.temporal import in_videos

CHECK_INTERVAL = 50
"""Steps between two checks of the losses for NaN on the host; a check of each step would stall a GPU."""

REDRAW_INTERVAL = 30.0
"""Seconds between two drawings of the curves."""


class FrameDataModule(lightning.LightningDataModule):
    """The batches of each process.

    Args:
        train: Training frames.
        val: Validation frames.
        config: The config of the run.
    """

    def __init__(self, train: FrameDataset, val: FrameDataset, config: TrainConfig) -> None:
        super().__init__()
        self.train, self.val, self.config = train, val, config
        self.device_images: list[DeviceImages] = []

    def train_dataloader(self) -> BatchLoader:
        """Shuffled batches of this process's share."""
        data, training, trainer = self.config.data, self.config.training, self.trainer
        assert trainer is not None
        every_row = data.balance == "none" and data.stride == 1
        draw = None if every_row else Draw(self.train.index, data.balance, data.stride, training.seed)
        reach = self.config.model.reach * self.config.model.fps
        windows = max(WINDOW, round(4 * reach)) if reach else 0
        ranks = (trainer.global_rank, trainer.world_size)
        sampler = EpochSampler(len(self.train), True, training.seed, *ranks, draw, windows)
        # Batches are full if there is a full one at all: a last batch of one image would break batch norm.
        full = len(sampler) >= training.batch
        return BatchLoader(self.train, training.batch, data.workers, sampler, drop_last=full)

    def val_dataloader(self) -> BatchLoader:
        """Batches of this process's share, in order; all frames at once for a temporal model, which sees videos."""
        if self.config.model.reach:
            return BatchLoader(self.val, len(self.val), 0)
        assert self.trainer is not None
        sampler = EpochSampler(len(self.val), False, 0, self.trainer.global_rank, self.trainer.world_size)
        return BatchLoader(self.val, self.config.training.batch, self.config.data.workers, sampler)

    def load_to_device(self, device: torch.device) -> None:
        """Decode all images to the device."""
        workers = self.config.data.workers
        self.device_images = [DeviceImages(dataset, device, workers) for dataset in (self.train, self.val)]

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Add the images that are on the device already; cached features become float32 there."""
        assert self.trainer is not None
        if self.device_images:
            return self.device_images[not self.trainer.training](batch)
        images = batch["image"]
        return {**batch, "image": images.float()} if images.dtype == torch.float16 else batch


class AffectTraining(lightning.LightningModule):
    """One model in training.

    Args:
        model: What is trained.
        config: The config of the run.
        index: The training rows, from which class weights and coupling tables are counted.
        run: The run folder, for `metrics.csv` (after each epoch) and `curves.png` (at most every half minute).
        progress: Print a line per epoch.
    """

    def __init__(
        self, model: AffectModel, config: TrainConfig, index: pl.DataFrame, run: Path = Path(), progress: bool = False
    ) -> None:
        super().__init__()
        self.model, self.config, self.run, self.progress = model, config, run, progress
        self.losses = TaskLosses(model.tasks, index, config.model.classes, **vars(config.losses))
        balancing, coupling = config.balancing, config.coupling
        self.balancing = Balancing(model.tasks, self.losses.weights, balancing.method, balancing.at)
        coupled = coupling.co_annotation or coupling.matching
        self.coupling = Coupling(model.tasks, index, **vars(coupling)) if coupled else None
        self.history: list[dict[str, float]] = []
        self.bad: dict[str, str] = {}
        self.latest_loss: Tensor | None = None  # for the bar: logging it would fetch it from the device at each step
        self._recent: list[tuple[Tensor, Tensor]] = []
        self._sums: Tensor | None = None
        self._hits: Tensor | None = None
        self._steps = 0
        self._outputs: list[dict[str, Tensor]] = []
        self._start = self._trained = 0.0
        self._joules: float | None = None
        self._drawn = time.monotonic()
        if config.model.frozen:
            model.backbone.requires_grad_(False)

    # Optimisation ------------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        """The optimiser, and schedulers per step (warm-up, cosine) and per epoch (plateau)."""
        training = self.config.training
        optimizer = make_optimizer(training, [p for p in self.parameters() if p.requires_grad])
        total = max(1, int(self.trainer.estimated_stepping_batches))
        warm = int(training.warmup * total)

        def factor(step: int) -> float:
            if step < warm:
                return (step + 1) / warm
            if training.schedule == "cosine":
                return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))
            return 1.0

        schedulers: list[dict[str, Any]] = []
        if training.schedule == "plateau":
            if warm > 1:  # LambdaLR would undo what the plateau divides
                linear = LinearLR(optimizer, 1 / warm, 1.0, warm - 1)
                schedulers.append({"scheduler": linear, "interval": "step"})
            watched, mode = training.criterion("watch")
            plateau = ReduceLROnPlateau(optimizer, mode, patience=training.patience, threshold=0.0)
            # At the last step, after validation: Lightning's "epoch" is after last.ckpt, which would miss the division.
            steps = int(self.trainer.num_training_batches)
            schedulers.append({"scheduler": plateau, "interval": "step", "frequency": steps, "monitor": watched})
        elif warm or training.schedule == "cosine":
            schedulers.append({"scheduler": LambdaLR(optimizer, factor), "interval": "step"})
        return [optimizer], schedulers

    def on_fit_start(self) -> None:
        """Load the images to the device, if `data.cache` says so."""
        if self.config.data.cache == "device" and self.device.type != "cpu":
            self._data.load_to_device(self.device)

    @property
    def _data(self) -> FrameDataModule:
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def on_train_epoch_start(self) -> None:
        """Seed dropout by the epoch, and keep a frozen backbone's statistics."""
        state = np.random.SeedSequence((self.config.training.seed, self.current_epoch, self.global_rank))
        torch.manual_seed(int(state.generate_state(1)[0]))
        self._sums = self._hits = None
        self._steps, self._recent = 0, []
        self._start, self._joules = time.perf_counter(), energy_joules()
        if self.config.model.frozen:
            self.model.backbone.eval()

    def training_step(self, batch: Batch, number: int) -> Tensor | None:
        """The loss to minimise on one batch; None if none of its images could be read."""
        self._record_bad(batch, self._data.train)
        # A batch of one would break batch norm; it can be left after an unreadable image.
        if len(batch["row"]) < min(2, self.config.training.batch):
            if self.trainer.world_size == 1:
                return None
            batch |= blank_rows(batch, 2)
        loss, values = self.batch_loss(batch, (self.config.training.seed, self.current_epoch, self.global_rank, number))
        self._sums = values if self._sums is None else self._sums + values
        self._steps += 1
        self._recent.append((values, batch["row"]))
        if len(self._recent) >= CHECK_INTERVAL:
            self._stop_on_nan()
        self.latest_loss = values[0]
        # Lightning divides by `accumulate`; the last step of an epoch may have fewer batches.
        every, count = self.config.training.accumulate, int(self.trainer.num_training_batches)
        return loss * (every / (count % every)) if number >= count // every * every else loss

    def batch_loss(self, batch: Mapping[str, Tensor], seed: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """From a batch to what is minimised.

        Args:
            batch: Images or cached features, and targets.
            seed: Seed of mixup; its last number is that of the batch in its epoch.

        Returns:
            What to minimise, and the values to log: the weighted sum and each task's loss.
        """
        images, mix = batch["image"], None
        if self.config.data.mixup:
            rng = np.random.default_rng(seed)
            share = float(rng.beta(self.config.data.mixup, self.config.data.mixup))
            mix = share, torch.from_numpy(rng.permutation(len(images))).to(images.device)
            mixed = share * images.float() + (1 - share) * images[mix[1]]
            mixed = mixed if images.is_floating_point() else mixed.round()
            images = torch.cat([images, mixed.to(images.dtype)])
        features = self.model.features(images)
        by_gradient = self.balancing.weighting is not None and features.requires_grad
        head_input = features.detach().requires_grad_() if by_gradient else features
        raw = self.model.predict_from_features(head_input, batch.get("time"), batch.get("video"))
        self._count_hits(raw, batch)
        losses = self._task_losses(raw, batch, mix)
        shared = [p for p in self.model.backbone.parameters() if p.requires_grad]
        total = minimised = self.balancing.total(losses, self.history)
        if by_gradient:
            minimised = total + self.balancing.surrogate(losses, head_input, features, shared)
        elif self.config.balancing.conflict and seed[-1] % CONFLICT_INTERVAL == 0 and features.requires_grad:
            self.balancing.gradients(losses, features, features, shared)
        return minimised, torch.stack([total, *losses.values()]).detach()

    def _count_hits(self, raw: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> None:
        """Count rightly predicted and labelled expressions of the batch; of soft labels the most probable counts."""
        if "expr" not in raw:
            return
        target, labelled = labelled_expressions(batch["expr"])
        codes = target if target.ndim == 1 else target.argmax(1)
        right = (raw["expr"][: len(codes)].argmax(1) == codes) & labelled
        hits = torch.stack([right.sum(), labelled.sum()])
        self._hits = hits if self._hits is None else self._hits + hits

    def _task_losses(
        self, raw: Mapping[str, Tensor], batch: Mapping[str, Tensor], mix: tuple[float, Tensor] | None
    ) -> dict[str, Tensor]:
        if mix is None:
            return self._coupled_losses(raw, batch)
        # MixAugment: real and mixed images count alike; a mixed one has each of its two labels by its share.
        (share, order), half = mix, len(batch["row"])
        real = self._coupled_losses({task: value[:half] for task, value in raw.items()}, batch)
        mixed = {task: value[half:] for task, value in raw.items()}
        other = {**batch, **{task: batch[task][order] for task in ("va", "expr", "au")}}
        first, second = self._coupled_losses(mixed, batch), self._coupled_losses(mixed, other)
        return {task: real[task] + share * first[task] + (1 - share) * second[task] for task in real}

    def _coupled_losses(self, raw: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        raw, batch = gather_outputs(raw, batch, self.config.training.batch)
        losses = self.losses(dict(raw), dict(batch))
        return losses if self.coupling is None else self.coupling(losses, raw, batch)

    def _record_bad(self, batch: Batch, dataset: FrameDataset) -> None:
        for name, reason in batch["bad"]:
            if self.config.data.on_bad_image == "error":
                raise InputError(f"{dataset.images / name}: {reason}; repair it or set data.on_bad_image to skip")
            if name not in self.bad:
                self.bad[name] = reason
                warnings.warn(f"skipped {name}: {reason}", stacklevel=1)

    def _stop_on_nan(self) -> None:
        """Stop after a loss that is not finite, naming the task and the images."""
        recent, self._recent = self._recent, []
        for values, rows in recent:
            if torch.isfinite(values).all():
                continue
            task = next((t for t, v in zip(self.model.tasks, values[1:], strict=True) if not torch.isfinite(v)), "all")
            names = ", ".join(self._data.train.name(int(row)) for row in rows[:4])
            raise InputError(
                f"the {task} loss became {values[1:].tolist()} in epoch {self.current_epoch + 1}, on a batch with "
                f"{names}{' ...' if len(rows) > 4 else ''}; lower training.lr, set training.clip, or check these images"
            )

    # Validation --------------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Check the last losses, and forget the last epoch's outputs."""
        self._trained = time.perf_counter()
        self._stop_on_nan()
        self._outputs = []

    def validation_step(self, batch: Batch, number: int) -> None:
        """Keep outputs and targets: the measures are of the whole split."""
        self._record_bad(batch, self._data.val)
        features = self.model.features(batch["image"])
        raw = in_videos(self.model, features, batch.get("time"), batch.get("video"))
        outputs = {"row": batch["row"], **{f"raw_{task}": value.float() for task, value in raw.items()}}
        self._outputs.append({**outputs, **{task: batch[task] for task in raw}})

    def on_validation_epoch_end(self) -> None:
        """Evaluate the whole split by the official measures and record the epoch."""
        metrics = self._metrics()
        self.history.append(metrics)
        training = self.config.training
        shown, _ = training.criterion()
        for key in {shown, training.criterion("watch")[0], score_key("total")}:
            self.log(key, metrics[key], prog_bar=key == shown, logger=False)
        best = training.select != "last" and training.kept_epoch(self.history) == len(self.history) - 1
        if self.trainer.is_global_zero:
            for logger in self.loggers:
                logger.log_metrics(metrics, step=self.current_epoch)
            if self.progress:
                line = epoch_line(metrics, self.model.tasks, self.config.training.epochs)
                tqdm.write(f"{self.run.name}: {line}{'  (best)' if best else ''}", file=sys.stderr)
            write_metrics(self.run, self.history)
            if time.monotonic() - self._drawn > REDRAW_INTERVAL:
                self.on_fit_end()
                self._drawn = time.monotonic()

    def on_fit_end(self) -> None:
        """Draw the curves."""
        if self.trainer.is_global_zero and self.history:
            draw_curves(self.run, self.history, self.config.training.kept_epoch(self.history))

    def _metrics(self) -> dict[str, float]:
        metrics: dict[str, float] = {"epoch": self.current_epoch + 1}
        if self._sums is not None:
            means = (self._sums / self._steps).tolist()
            names = [loss_key("train"), *(loss_key("train", task) for task in self.model.tasks)]
            metrics |= dict(zip(names, means, strict=True)) | self.balancing.pop_cosines()
        if self._hits is not None:
            right, labelled = self._hits.tolist()
            metrics[score_key("accuracy", "train")] = right / labelled if labelled else math.nan
        metrics |= evaluate(gather_rows(self._outputs, self.trainer.world_size), self.losses, self.device)
        images = self._steps * self.config.training.batch * self.trainer.world_size
        metrics |= {
            "lr": self.optimizers().param_groups[0]["lr"],  # type: ignore[union-attr]
            "seconds": time.perf_counter() - self._start,
            "images_per_second": images / max(self._trained - self._start, 1e-9),
        }
        joules = energy_joules()
        if joules is not None and self._joules is not None and joules >= self._joules:
            metrics["energy_joules"] = joules - self._joules
        return metrics

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save what Lightning does not know."""
        checkpoint["triaffect"] = {"history": self.history, "bad": self.bad}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore it."""
        for name, value in checkpoint["triaffect"].items():
            setattr(self, name, value)


def evaluate(outputs: Mapping[str, np.ndarray], losses: TaskLosses, device: torch.device) -> dict[str, float]:
    """Scores and losses of a validation split.

    Args:
        outputs: `raw_va` and the like (raw outputs), and `va` and the like (targets with missing values).
        losses: Losses of the run.
        device: Device of the losses.

    Returns:
        `val/va`, `val/expr`, `val/au` (NaN for a task without any label), `val/total` over the others, the losses, the
        CCC of `val/valence` and `val/arousal`, and `val/accuracy`, the share of rightly predicted expressions.
    """
    raw = {task: torch.from_numpy(outputs[f"raw_{task}"]).to(device) for task in losses.tasks}
    targets = {task: torch.from_numpy(outputs[task]).to(device) for task in losses.tasks}
    predictions = {t: value[:, : raw[t].shape[1]].cpu().numpy() for t, value in probabilities(raw).items()}
    columns = {task: TASK_SCORES[task](predictions[task], outputs[task]) for task in losses.tasks}
    scores = {task: float(of_task[task]) for task, of_task in columns.items()}
    others = {name: columns["va"].get(name, math.nan) for name in VA} if "va" in columns else {}
    if "expr" in columns:
        labelled = outputs["expr"] >= 0
        right = predictions["expr"].argmax(1)[labelled] == outputs["expr"][labelled]
        others["accuracy"] = float(right.mean()) if labelled.any() else math.nan
    task_losses = losses(raw, targets)
    return {
        loss_key("val"): losses.total(task_losses).item(),
        **{loss_key("val", task): value.item() for task, value in task_losses.items()},
        score_key("total"): sum(value for value in scores.values() if not math.isnan(value)),
        **{score_key(name): value for name, value in (scores | others).items()},
    }
