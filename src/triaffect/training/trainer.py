"""One training run: Lightning's loop around a model, in a run folder that can be resumed.

Order, augmentation and dropout follow from (seed, epoch) alone, and `last.ckpt` holds the rest of the state at the end
of each epoch, so a run that was killed and resumed ends in the numbers of one that was not.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint, TQDMProgressBar, WeightAveraging
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm import tqdm

from triaffect.io import InputError
from triaffect.training import run_folder
from triaffect.training.augmentation import Augmentation
from triaffect.training.config import BalancingConfig, CouplingConfig, ModelConfig, TrainConfig
from triaffect.training.dataset import FeatureDataset, FrameDataset, training_rows
from triaffect.training.model import join_heads, load_model, make_model, source_models
from triaffect.training.module import CHECK_INTERVAL, AffectTraining, FrameDataModule
from triaffect.training.weights import check_pretrained

LINE_INTERVAL = 60.0
"""Seconds between two lines of a run that shows no bar."""

LOST = "another process of this run has ended, its message says why; start all again with --resume"


def train(config: TrainConfig, out: str | Path, resume: bool = False, progress: bool = True) -> Path:
    """Train one model and write a run folder.

    The folder holds `config.yaml`, `environment.json`, `model/` (the epoch of `training.select`), `last.ckpt` (to
    resume from), `metrics.csv` and `curves.png` (one row per epoch), the logs of `training.loggers`, and `summary.json`
    at the end.

    Args:
        config: Data, model, losses, training.
        out: The run folder; it must not exist yet, unless resumed.
        resume: Continue a run that was stopped; a finished one is left as it is.
        progress: Print a line per epoch; between them show a bar on a terminal or in a notebook with ipywidgets, or
            print a line each minute.

    Returns:
        The run folder.

    Raises:
        InputError: The data does not fit the config, weights cannot be fetched, a loss became NaN, or the folder holds
            something else.
    """
    run, config = Path(out), _with_source_backbone(config)
    if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
        run_folder.check_run(run, config, resume)
    if run_folder.finished(run):
        return run
    torch.set_flush_denormal(True)  # denormals slow optimiser steps on a CPU several times
    if config.training.threads:
        torch.set_num_threads(config.training.threads)
    torch.manual_seed(config.training.seed)
    # What may be wrong is found before the folder is made.
    if config.model.pretrained is True and not config.model.weights:
        check_pretrained(config.model.backbone)
    if config.training.batch == 1 and config.model.head == "mlp":
        raise InputError("training.batch is 1, but the batch norm of head mlp needs two images; set it to 2 or more")
    run_folder.make_optimizer(config.training, [nn.Parameter(torch.zeros(1))])
    train_data, val_data = _datasets(config)
    model = make_model(config)
    parameters, backbone = sum(p.numel() for p in model.parameters()), model.backbone
    if config.data.features:
        model.backbone = nn.Identity()  # its outputs are the data
    module = AffectTraining(model, config, train_data.index, run, progress)
    with _without_hints():
        trainer = _make_trainer(config, run, progress)
        if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            run_folder.write_config(run, config)
        for logger in trainer.loggers:
            logger.log_hyperparams(config.to_dict())
        module.to(trainer.strategy.root_device)  # weight averaging copies the module as it is before the fit
        last = run / "last.ckpt"
        try:
            trainer.fit(
                module,
                datamodule=FrameDataModule(train_data, val_data, config),
                ckpt_path=last if last.exists() else None,
                weights_only=True,
            )
        except SystemExit:  # Lightning's answer to Ctrl-C
            raise KeyboardInterrupt from None
        except RuntimeError as error:
            if not isinstance(error, torch.distributed.DistError) and "gloo" not in str(error):
                raise
            raise InputError(f"{run}: {LOST}") from None
        finally:
            best = _keep_best(module, backbone, run) if trainer.is_global_zero else None
    if trainer.is_global_zero:
        (run / "best.ckpt").unlink(missing_ok=True)
        best = best or module.history[config.training.kept_epoch(module.history)]
        run_folder.close_run(run, module.history, best, parameters, module.bad)
    trainer.strategy.barrier()  # every process finds the whole run folder
    return run


def train_heads(config: TrainConfig, out: str | Path, joint: bool = False, progress: bool = True) -> Path:
    """Train heads on cached features, each at its own best epoch, and write one run folder with a whole model.

    Args:
        config: With `data.features`.
        out: The run folder to make or to resume; a finished one is left as it is.
        joint: Train and choose one epoch for all heads together, by the total.
        progress: As in `train`.

    Returns:
        The run folder. Separate heads have theirs below `heads/`; the columns of its `metrics.csv` are joined.

    Raises:
        InputError: As `train`.
    """
    run, tasks, config = Path(out), config.model.tasks, _with_source_backbone(config)
    if joint or len(tasks) == 1:
        return train(config, run, resume=True, progress=progress)
    for key, group, default in (
        ("balancing", config.balancing, BalancingConfig()),
        ("coupling", config.coupling, CouplingConfig()),
        ("training.select", config.for_task(tasks[0]).training.select, config.training.select),
    ):
        if group != default:
            raise InputError(f"{key} has no effect on heads that are trained one by one; leave it out, or set joint")
    run_folder.check_run(run, config, resume=True)
    if run_folder.finished(run):
        return run
    run_folder.write_config(run, config)
    parts = [train(config.for_task(task), run / "heads" / task, resume=True, progress=progress) for task in tasks]
    model = join_heads([load_model(part) for part in parts])
    history, best = run_folder.join_histories(parts)
    run_folder.keep_model(run, model, config, best, {})
    run_folder.write_metrics(run, history)
    run_folder.draw_curves(run, history)
    run_folder.close_run(run, history, best, sum(p.numel() for p in model.parameters()), {})
    return run


def _with_source_backbone(config: TrainConfig) -> TrainConfig:
    """With cached features, the backbone's settings are those of the models that made them."""
    if not config.data.features:
        return config
    sources, default = source_models(config), ModelConfig()
    if len({source.size for source in sources}) > 1:
        sizes = ", ".join(f"{source.settings['backbone']} {source.size}" for source in sources)
        raise InputError(f"encoders side by side need one size of input, but these have {sizes}; set model.size alike")
    made_with: dict[str, Any] = {
        "backbone": " + ".join(source.settings["backbone"] for source in sources),
        "size": sources[0].size,
        **{name: len(sources) == 1 and sources[0].settings[name] for name in ("grey", "brighten")},
    }
    for name, value in made_with.items():
        if getattr(config.model, name) not in (getattr(default, name), value):
            setting = getattr(config.model, name)
            raise InputError(f"model.{name} is {setting}, but data.features are of {value}; leave it out")
    return replace(config, model=replace(config.model, **made_with))


def _datasets(config: TrainConfig) -> tuple[FrameDataset, FrameDataset]:
    train_rows, val_rows, images = training_rows(config)
    data, size = config.data, config.model.size
    if data.features:
        fps = config.model.fps
        return FeatureDataset(train_rows, data.features, fps), FeatureDataset(val_rows, data.features, fps)
    on_device = config.training.accelerator != "cpu" and torch.accelerator.is_available()
    cache = data.cache == "ram" or (data.cache == "device" and not on_device)
    augmentation = Augmentation(**data.augmentation)
    return (
        FrameDataset(train_rows, images, size, augmentation, config.training.seed, cache),
        FrameDataset(val_rows, images, size, cache=cache),
    )


def _keep_best(module: AffectTraining, backbone: nn.Module, run: Path) -> dict[str, float] | None:
    """Write `model/` from the checkpoint of the best epoch, which holds averaged weights if there are any.

    Returns:
        The row of that epoch. Lightning compares float32 scores, so the largest of the history may be another's.
    """
    if not (run / "best.ckpt").exists() or not module.history:
        return None
    checkpoint = torch.load(run / "best.ckpt", map_location="cpu", weights_only=True)
    module.load_state_dict(checkpoint["state_dict"])
    model, best = module.model.cpu(), module.history[checkpoint["epoch"]]
    if module.config.data.features:
        model.backbone = backbone
    run_folder.keep_model(run, model, module.config, best, module.bad)
    return best


class _Checkpoint(ModelCheckpoint):
    """A checkpoint that knows its best score after the run folder was moved, too."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        old, new = str(state_dict["dirpath"]), str(self.dirpath)
        moved = {k: v.replace(old, new, 1) if isinstance(v, str) else v for k, v in state_dict.items()}
        scores = {path.replace(old, new, 1): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**moved, "best_k_models": scores})


class _MinuteLines(Callback):
    """Says where a run is at least once a minute, where no bar can be shown."""

    def __init__(self, name: str) -> None:
        self.name, self.latest = name, time.monotonic()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._line(trainer, "batch", batch_idx, trainer.num_training_batches, pl_module.latest_loss)

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, *batch: Any) -> None:
        self._line(trainer, "validation batch", batch[2], trainer.num_val_batches[0], None)

    def _line(self, trainer: Any, what: str, number: int, count: float, loss: torch.Tensor | None) -> None:
        if time.monotonic() - self.latest < LINE_INTERVAL or not trainer.is_global_zero:
            return
        self.latest = time.monotonic()
        epoch = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}"
        words = f"{self.name}: {epoch}, {what} {number + 1:,} of {count:,.0f}"
        tqdm.write(words + (f", loss {loss.item():.3f}" if loss is not None else ""), file=sys.stderr)


class _ProgressBar(TQDMProgressBar):
    """A bar of the epoch's batches on a terminal or in a notebook, without a version number."""

    def get_metrics(self, trainer: Any, pl_module: Any) -> dict[str, Any]:
        loss = {} if pl_module.latest_loss is None else {"loss": pl_module.latest_loss.item()}
        return loss | {k: v for k, v in super().get_metrics(trainer, pl_module).items() if k != "v_num"}


@contextmanager
def _without_hints() -> Any:
    """Lightning's hints on workers, hardware and its own checkpoints are not for our users."""
    with warnings.catch_warnings():
        for hint in ("Checkpoint directory .* exists", "GPU available", "sync_dist=True", "smaller than the logging"):
            warnings.filterwarnings("ignore", f".*{hint}.*")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        yield


def _make_trainer(config: TrainConfig, run: Path, progress: bool) -> lightning.Trainer:
    training = config.training
    (monitor, mode), (watched, watch_mode) = training.criterion(), training.criterion("watch")
    # A notebook shows the bars of ipywidgets; without them a bar would be a line for each of its steps.
    bar = progress and (sys.stderr.isatty() or ("ipykernel" in sys.modules and find_spec("ipywidgets") is not None))
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Lightning's watcher may kill this process before it notices that another one is lost; its message comes first.
    watcher = logging.getLogger("lightning.fabric.strategies.launchers.subprocess_script")
    watcher.setLevel(logging.INFO)
    watcher.filters[:] = [lambda _: print(f"{run}: {LOST}", file=sys.stderr, flush=True) or False]
    best_by = None if training.select == "last" else monitor
    save: dict[str, Any] = {"save_top_k": 1, "enable_version_counter": False, "auto_insert_metric_name": False}
    callbacks: list[Callback] = [
        # Whole checkpoints: Lightning leaves the averaged weights out of those with weights only.
        _Checkpoint(run, "best", monitor=best_by, mode=mode, save_on_train_epoch_end=False, **save)
    ]
    if training.early_stop:
        stop: dict[str, Any] = {"patience": training.early_stop, "check_on_train_epoch_end": False}
        callbacks.append(EarlyStopping(watched, mode=watch_mode, **stop))
    if training.ema:
        # EMAWeightAveraging with torch's own multi-tensor average, buffers (batch norm's statistics) included.
        callbacks.append(WeightAveraging(multi_avg_fn=get_ema_multi_avg_fn(training.ema)))
    callbacks += [_make_plugin("callbacks", path, run) for path in training.callbacks]
    # Last, so that it holds the state of the others after the epoch.
    callbacks.append(_Checkpoint(run, "last", monitor=None, save_on_train_epoch_end=True, **save))
    if bar:
        callbacks.append(_ProgressBar(refresh_rate=20))
    elif progress:
        callbacks.append(_MinuteLines(run.name))
    loggers = [_make_plugin("loggers", path, run) for path in training.loggers]
    try:
        return lightning.Trainer(
            default_root_dir=run,
            max_epochs=training.epochs,
            accelerator=training.accelerator,
            devices=training.devices,
            num_nodes=training.nodes,
            precision=run_folder.precision(training.precision, training.accelerator),  # type: ignore[arg-type]
            accumulate_grad_batches=training.accumulate,
            gradient_clip_val=training.clip or None,
            logger=loggers,
            callbacks=callbacks,
            enable_progress_bar=bar,
            log_every_n_steps=CHECK_INTERVAL,  # each look at the losses waits for the device
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
    except MisconfigurationException as error:  # no such accelerator, or not that many devices
        reason = str(error).split(". ")[0].rstrip("!.")
        message = f"training.accelerator {training.accelerator}, training.devices {training.devices}: {reason}"
        raise InputError(f"{message}; set accelerator to auto or cpu") from None


def _make_plugin(key: str, path: str, run: Path) -> Any:
    """A logger that writes into the run folder, or a callback, of Lightning by its name or any by its class path."""
    module, _, name = path.rpartition(".")
    try:
        kind = getattr(import_module(module or f"lightning.pytorch.{key}"), name)
        if name == "TensorBoardLogger":
            return kind(run, name="", version="tensorboard", default_hp_metric=False)
        folder = run / "mlruns" if name == "MLFlowLogger" else run  # MLflow's store would fill the run folder itself
        return kind(save_dir=folder) if key == "loggers" else kind()
    except Exception as error:  # a missing package, or whatever the class itself refuses
        reason = str(error).split("\n")[0]
        raise InputError(
            f"training.{key}: {path} cannot be made ({reason}); install its package, or name another class"
        ) from None
