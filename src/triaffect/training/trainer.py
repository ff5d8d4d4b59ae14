"""One training run: Lightning's loop around a model, in a run folder that can be continued.

Order, augmentation and dropout follow from (seed, epoch) alone, and `last.ckpt` holds the rest of the state at the end
of each epoch, so a run that was killed and resumed ends in the numbers of one that was not. Nothing else imports
Lightning.
"""

from __future__ import annotations

import logging
import math
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import polars as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from triaffect.io import InputError
from triaffect.training import run_folder as runs
from triaffect.training.config import TrainConfig
from triaffect.training.dataset import Batch, FrameDataset, augmentation, training_rows
from triaffect.training.distributed import blank
from triaffect.training.judging import gather, judge
from triaffect.training.loader import Resident, loader
from triaffect.training.losses import TaskLosses
from triaffect.training.model import AffectModel, load_backbone_weights
from triaffect.training.sampling import Draw
from triaffect.training.step import Step, stop_on_nan

CHECK_EVERY = 50
"""Steps between two looks at the losses on the host, where a NaN is found; looking at each step would stall a GPU."""

LOST = "another process of this run has ended, its message tells why; start all again with --resume"

REDRAW_EVERY = 30.0
"""Seconds between two drawings of the curves."""


class AffectTraining(lightning.LightningModule):
    """Steps, rates and the official measures after each epoch.

    Args:
        model: What is trained.
        losses: What it minimises.
        config: The whole run's.
        run: The run folder.
        datasets: The training and the validation frames.
        progress: Say a line an epoch.
    """

    def __init__(
        self,
        model: AffectModel,
        losses: TaskLosses,
        config: TrainConfig,
        run: Path,
        datasets: tuple[FrameDataset, FrameDataset],
        progress: bool = True,
    ) -> None:
        super().__init__()
        self.model, self.losses, self.config, self.run = model, losses, config, run
        self.train_data, self.val_data = datasets
        self.batch_loss = Step(config, losses, self.train_data.index)
        self.progress = progress
        self.history: list[dict[str, float]] = []
        self.best = -math.inf
        self.stalled = 0
        self.rate = 1.0  # what `plateau` has divided the learning rate by so far, inverted
        self.bad: dict[str, str] = {}
        self.residents: list[Resident] = []  # training and validation pictures on the device
        self.latest: Tensor | None = None  # loss, for the bar: logging it would fetch it from the device each step
        self._recent: list[tuple[Tensor, Tensor]] = []
        self._sums: Tensor | None = None
        self._steps = 0
        self._judged: list[dict[str, Tensor]] = []
        self._started = self._trained = 0.0
        self._joules: float | None = None
        self._total_steps = 1
        self._drawn = time.perf_counter()  # a short run is drawn once, at its end
        if config.model.frozen:
            model.backbone.requires_grad_(False)
        self.average: AveragedModel | None = None
        if config.training.ema:
            # Part of this module, so checkpoints hold it; with buffers, so batch norm's statistics are averaged too.
            self.average = AveragedModel(
                model, multi_avg_fn=get_ema_multi_avg_fn(config.training.ema), use_buffers=True
            )
            self.average.requires_grad_(False)

    @property
    def judged_model(self) -> AffectModel:
        """The model that is judged and kept: the trained one, or its moving average."""
        return self.model if self.average is None else self.average.module  # type: ignore[return-value]

    def _loader(self, dataset: FrameDataset, shuffle: bool) -> Any:
        data, training = self.config.data, self.config.training
        rank, world = self.trainer.global_rank, self.trainer.world_size
        draw = Draw.asked(data, dataset.index, training.seed) if shuffle else None
        return loader(dataset, training.batch, data.workers, shuffle, training.seed, rank, world, draw)

    def train_dataloader(self) -> Any:
        """Shuffled batches of this process's share."""
        return self._loader(self.train_data, shuffle=True)

    def val_dataloader(self) -> Any:
        """Batches of this process's share, in order."""
        return self._loader(self.val_data, shuffle=False)

    def on_fit_start(self) -> None:
        """Brings the pictures to the device, where `data.cache` wants them there."""
        if self.config.data.cache == "device" and self.device.type != "cpu":
            data, workers = (self.train_data, self.val_data), self.config.data.workers
            self.residents = [Resident(dataset, self.device, workers) for dataset in data]

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Adds the pictures that were on the device already."""
        return self.residents[not self.trainer.training](batch) if self.residents else batch

    def _note_bad(self, batch: Batch) -> None:
        for name, reason in batch["bad"]:
            if self.config.data.on_bad_image == "error":
                raise InputError(f"{self.train_data.images / name}: {reason}; mend it or set data.on_bad_image to skip")
            if name not in self.bad:
                self.bad[name] = reason
                warnings.warn(f"skipped {name}: {reason}", stacklevel=1)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The raw output of each task."""
        return self.model(images)

    def on_train_start(self) -> None:
        """Counts the steps, which the learning rate follows."""
        self._total_steps = max(1, int(self.trainer.estimated_stepping_batches))

    def on_train_epoch_start(self) -> None:
        """Seeds dropout by the epoch, and keeps a frozen backbone's statistics still."""
        state = np.random.SeedSequence((self.config.training.seed, self.current_epoch, self.global_rank))
        torch.manual_seed(int(state.generate_state(1)[0]))
        self._sums, self._steps, self._recent = None, 0, []
        self._started, self._joules = time.perf_counter(), runs.joules()
        if self.config.model.frozen:
            self.model.backbone.eval()

    def _learning_rate(self) -> float:
        return runs.learning_rate(self.config.training, self.global_step, self._total_steps, self.rate)

    def training_step(self, batch: Batch, number: int) -> Tensor | None:
        """The weighted sum of the task losses on one batch; None where no image of it could be read."""
        self._note_bad(batch)
        # A batch of one would break batch norm; it is left after a bad image at most.
        if len(batch["row"]) < min(2, self.config.training.batch):
            if self.trainer.world_size == 1:
                return None
            batch |= blank(batch, 2)
        for group in self.optimizers().param_groups:  # type: ignore[union-attr]
            group["lr"] = self._learning_rate()
        seed = (self.config.training.seed, self.current_epoch, self.global_rank, number)
        total, values = self.batch_loss(self.model, batch, seed, self.history)
        self._sums = values if self._sums is None else self._sums + values
        self._steps += 1
        self._recent.append((values, batch["row"]))
        if len(self._recent) >= CHECK_EVERY:
            self._stop_on_nan()
        self.latest = values[0]
        # Lightning divides by `accumulate`; the last step of an epoch may have fewer batches.
        every, count = self.config.training.accumulate, int(self.trainer.num_training_batches)
        return total * (every / (count % every)) if number >= count // every * every else total

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        """Moves the average after each optimiser step."""
        if self.average is not None and self._ends_a_step(batch_idx):
            self.average.update_parameters(self.model)

    def _ends_a_step(self, number: int) -> bool:
        """Whether the optimiser steps after this batch of the epoch: the last ones step with what there is."""
        return (number + 1) % self.config.training.accumulate == 0 or number + 1 == self.trainer.num_training_batches

    def _stop_on_nan(self) -> None:
        recent, self._recent = self._recent, []
        stop_on_nan(recent, self.losses.tasks, self.train_data, self.current_epoch + 1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimiser; its rate is set before each step, so a resumed run needs no scheduler's memory."""
        return runs.optimizer(self.config.training, [p for p in self.parameters() if p.requires_grad])

    def on_validation_epoch_start(self) -> None:
        """Looks for NaN before it is judged, and forgets the last epoch's predictions."""
        self._trained = time.perf_counter()
        self._stop_on_nan()
        self._judged = []

    def validation_step(self, batch: Batch, number: int) -> None:
        """Keeps predictions and targets; the measures are of the whole split."""
        self._note_bad(batch)
        raw = self.judged_model(batch["image"])
        kept = {"row": batch["row"], **{f"raw_{task}": value.float() for task, value in raw.items()}}
        self._judged.append({**kept, **{task: batch[task] for task in raw}})

    def on_validation_epoch_end(self) -> None:
        """Judges the whole split by the official measures, keeps the best model and writes the metrics."""
        training = self.config.training
        metrics, joules = self._metrics(), runs.joules()
        if joules is not None and self._joules is not None and joules >= self._joules:
            metrics["energy_joules"] = joules - self._joules
        score = metrics["val/total" if training.select == "total" else f"val/{training.select}"]
        improved = score > self.best
        self.stalled = 0 if improved else self.stalled + 1
        if training.schedule == "plateau" and self.stalled and self.stalled % (training.patience + 1) == 0:
            self.rate /= 10
        if training.early_stop and self.stalled >= training.early_stop:
            self.trainer.should_stop = True
        self.history.append(metrics)
        self.log("val", score, prog_bar=True, logger=False, rank_zero_only=True)
        if improved:
            self.best = score
        if self.trainer.is_global_zero:
            if improved:
                runs.keep_model(self.run, self.judged_model, self.config, metrics, self.bad)
            runs.write_metrics(self.run, self.history)
            if time.perf_counter() - self._drawn > REDRAW_EVERY:
                self.draw()
            if self.logger is not None:
                self.logger.log_metrics(metrics, step=self.current_epoch)
            if self.progress:
                line = runs.in_words(metrics, self.model.tasks, training.epochs)
                tqdm.write(f"{self.run.name}: {line}{'  (best)' if improved else ''}", file=sys.stderr)

    def draw(self) -> None:
        """Writes the curves so far."""
        runs.draw(self.run, self.history)
        self._drawn = time.perf_counter()

    def _metrics(self) -> dict[str, float]:
        metrics: dict[str, float] = {"epoch": self.current_epoch + 1}
        if self._sums is not None:
            means = (self._sums / max(1, self._steps)).tolist()
            names = ["train/loss", *(f"train/loss_{task}" for task in self.model.tasks)]
            metrics |= dict(zip(names, means, strict=True)) | self.batch_loss.balancing.take_cosines()
        metrics |= judge(gather(self._judged, self.trainer.world_size), self.losses, self.device)
        images = self._steps * self.config.training.batch * self.trainer.world_size
        return metrics | {
            "lr": self._learning_rate(),
            "seconds": time.perf_counter() - self._started,
            "images_per_second": images / max(self._trained - self._started, 1e-9),
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What Lightning does not know of."""
        checkpoint["triaffect"] = {
            "history": self.history,
            "best": self.best,
            "stalled": self.stalled,
            "rate": self.rate,
            "bad": self.bad,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Puts it back."""
        for name, value in checkpoint["triaffect"].items():
            setattr(self, name, value)


class _Bar(TQDMProgressBar):
    """A bar of the epoch's batches at a terminal, without a version number and without one for the validation split."""

    def get_metrics(self, trainer: Any, pl_module: Any) -> dict[str, Any]:
        loss = {} if pl_module.latest is None else {"loss": pl_module.latest.item()}
        return loss | {k: v for k, v in super().get_metrics(trainer, pl_module).items() if k != "v_num"}

    def init_validation_tqdm(self) -> Any:
        return tqdm(disable=True)


def train(config: TrainConfig, out: str | Path, resume: bool = False, progress: bool = True) -> Path:
    """Trains one model and leaves a run folder.

    The folder holds `config.yaml`, `environment.json`, `model/` (the best epoch by `training.select`), `last.ckpt` (to
    continue from), `metrics.csv` and `curves.png` (a row an epoch), `tensorboard/`, and `summary.json` at the end.

    Args:
        config: Data, model, losses, training.
        out: The run folder; it must not exist yet, unless resumed.
        resume: Continue a run that was stopped; a finished one is left as it is.
        progress: Say a line an epoch, and show a bar at a terminal.

    Returns:
        The run folder.

    Raises:
        InputError: The data does not fit the configuration, a loss became NaN, or the folder is already taken.
    """
    run = Path(out)
    if config.data.features:
        if run.exists():
            runs.open_run(run, config, resume)
        from triaffect.training.heads import train_heads

        return train_heads(config.data.features, str(config.model.pretrained), config, run, joint=True)
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        runs.open_run(run, config, resume)
    if runs.finished(run):
        return run
    torch.set_flush_denormal(True)  # denormals slow optimiser steps on a CPU several times
    if config.training.threads:
        torch.set_num_threads(config.training.threads)
    train_rows, val_rows, images = training_rows(config)
    module = _module(config, run, train_rows, val_rows, images, progress)
    with warnings.catch_warnings():
        # Lightning's hints on workers, hardware and its own checkpoints are not for our users.
        for hint in ("Checkpoint directory .* exists", "GPU available", "sync_dist=True", "smaller than the logging"):
            warnings.filterwarnings("ignore", f".*{hint}.*")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        trainer = _trainer(config, run, progress)
        try:
            trainer.fit(module, ckpt_path=last if (last := run / "last.ckpt").exists() else None, weights_only=True)
        except SystemExit:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from None
        except RuntimeError as error:
            if not isinstance(error, torch.distributed.DistError) and "gloo" not in str(error):
                raise
            raise InputError(f"{run}: {LOST}") from None
    if trainer.is_global_zero:
        module.draw()
        parameters = sum(p.numel() for p in module.model.parameters())
        runs.close_run(run, module.history, config.training.select, parameters, module.bad)
        if progress:
            print(f"{run}: model in {run}/model, scores in {run}/metrics.csv, curves in {run}/curves.png")
    return run


def _module(
    config: TrainConfig, run: Path, train_rows: pl.DataFrame, val_rows: pl.DataFrame, images: Path, progress: bool
) -> AffectTraining:
    torch.manual_seed(config.training.seed)
    settings = {k: v for k, v in vars(config.model).items() if k not in ("pretrained", "frozen")}
    model = AffectModel(**settings, pretrained=config.model.pretrained is True)
    if isinstance(config.model.pretrained, str):
        load_backbone_weights(model, config.model.pretrained)
    model.to(memory_format=torch.channels_last)
    losses = TaskLosses(config.losses, model.tasks, train_rows)
    size, seed = config.model.size, config.training.seed
    keep = config.data.cache == "ram" or (config.data.cache == "device" and not _has_device(config))
    training = FrameDataset(train_rows, images, size, augmentation(config.data), seed, keep)
    validation = FrameDataset(val_rows, images, size, keep=keep)
    return AffectTraining(model, losses, config, run, (training, validation), progress)


def _has_device(config: TrainConfig) -> bool:
    return config.training.accelerator != "cpu" and torch.accelerator.is_available()


def _trainer(config: TrainConfig, run: Path, progress: bool) -> lightning.Trainer:
    training = config.training
    bar = progress and sys.stderr.isatty()
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Lightning's watcher may kill this process before the loss of the other is felt here; its word comes first.
    watcher = logging.getLogger("lightning.fabric.strategies.launchers.subprocess_script")
    watcher.setLevel(logging.INFO)
    watcher.filters[:] = [lambda _: print(f"{run}: {LOST}", file=sys.stderr, flush=True) or False]
    return lightning.Trainer(
        default_root_dir=run,
        max_epochs=training.epochs,
        accelerator=training.accelerator,
        devices=training.devices,
        num_nodes=training.nodes,
        precision=runs.precision(training.precision, training.accelerator),  # type: ignore[arg-type]
        accumulate_grad_batches=training.accumulate,
        gradient_clip_val=training.clip or None,
        logger=TensorBoardLogger(run, name="", version="tensorboard"),
        callbacks=[
            # After validation, so that the checkpoint knows the epoch's score.
            ModelCheckpoint(
                run,
                filename="last",
                monitor=None,
                save_top_k=1,
                enable_version_counter=False,
                save_on_train_epoch_end=True,
            ),
            *([_Bar(refresh_rate=20)] if bar else []),
        ],
        enable_progress_bar=bar,
        log_every_n_steps=CHECK_EVERY,  # each look at the losses waits for the device
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
    )
