"""Hyper-parameter search over keys of one run; each trial is a run, the storage goes on where it was."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from triaffect.io import InputError
from triaffect.study.recipe import Recipe, merged, nested
from triaffect.training import run_folder as runs
from triaffect.training.config import TrainConfig


def run_search(plan: Recipe, folder: Path, trials: int) -> dict[str, Any] | None:
    """Brings the search of a recipe to a number of trials (tree-structured Parzen estimator).

    A stopped trial is taken up again, and each trial's draws follow from its number and the scores so far, so a search
    that was stopped ends as one that was not.

    Args:
        plan: A recipe with `search`.
        folder: Where the trials and their storage are kept.
        trials: In all, those of earlier calls included.

    Returns:
        `trials` (number, values, score, state) and `best`, one of them; None where there is no trial.
    """
    import optuna
    from optuna.trial import Trial, TrialState

    if not plan.search or (not trials and not (folder / "search.db").is_file()):
        return None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder.mkdir(parents=True, exist_ok=True)
    base = next(run for name, run in plan.runs.items() if name.removesuffix("-seed0") == plan.search["run"])
    keys: dict[str, Any] = plan.search["keys"]
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder / 'search.db'}")
    study = optuna.create_study(storage=storage, study_name="search", direction="maximize", load_if_exists=True)

    def values(trial: Trial) -> dict[str, Any]:
        found = {}
        for place, (key, space) in enumerate(keys.items()):
            # Seeded for each value, so that one that was drawn before a stop does not move the next.
            seed = 1000 * (base.training.seed + trial.number) + place
            study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=5, multivariate=False)
            found[key] = (
                trial.suggest_categorical(key, space) if isinstance(space, list) else _between(trial, key, **space)
            )
        return found

    while True:
        open_trials = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        done = len(study.get_trials(deepcopy=False)) - len(open_trials)
        if done >= trials:
            break
        trial = Trial(study, open_trials[0]._trial_id) if open_trials else study.ask()
        chosen = values(trial)
        print(f"trial {trial.number + 1} of {trials}: {chosen}", file=sys.stderr, flush=True)
        config = TrainConfig.load(merged(base.to_dict(), nested(chosen)))
        score, reason = _score(config, folder / f"trial-{trial.number}")
        if score is None:
            trial.set_user_attr("reason", reason)
            study.tell(trial, state=TrialState.FAIL)
        else:
            study.tell(trial, score)
    told: list[dict[str, Any]] = [
        {"number": t.number, "values": t.params, "score": t.value, "state": t.state.name.lower()}
        for t in study.get_trials(deepcopy=False)
        if t.state.is_finished()
    ]
    scored = [trial for trial in told if trial["score"] is not None]
    return {"trials": told, "best": max(scored, key=lambda trial: trial["score"]) if scored else None}


def _between(trial: Any, key: str, low: Any, high: Any, log: bool = False) -> float | int:
    if isinstance(low, int) and isinstance(high, int):
        return int(trial.suggest_int(key, low, high, log=log))
    return float(trial.suggest_float(key, float(low), float(high), log=log))


def _score(config: TrainConfig, run: Path) -> tuple[float | None, str]:
    from triaffect.training.trainer import train

    try:
        runs.begin(run, config)
        train(config, run, resume=True)
    except Exception as error:
        return None, str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    return float(summary["best"][f"val/{config.training.select}"]), ""
