"""Hyper-parameter search over keys of one run; each trial is a run, and a stopped search can be continued."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triaffect.io import InputError
from triaffect.report.results import SearchResult, Trial
from triaffect.study.plan import StudyPlan
from triaffect.study.recipe import merged, nested
from triaffect.training import run_folder as runs
from triaffect.training.config import TrainConfig

if TYPE_CHECKING:
    import optuna


def run_search(plan: StudyPlan, folder: Path, trials: int, progress: Callable[[str], None]) -> SearchResult | None:
    """Bring the search of a study to a number of trials (tree-structured Parzen estimator).

    A stopped trial is continued, and the values of each trial depend on its number and the scores so far alone, so a
    search that was stopped ends with the results of one that was not.

    Args:
        plan: A study with `search`.
        folder: Folder of the trials and their database.
        trials: Total number of trials, those of earlier calls included.
        progress: Called with one line per trial.

    Returns:
        The trials and the best of them; None without any trial.
    """
    if not plan.search or (not trials and not (folder / "search.db").is_file()):
        return None
    import optuna
    from optuna.trial import TrialState

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder.mkdir(parents=True, exist_ok=True)
    base = plan.runs[plan.search.run]
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder / 'search.db'}")
    try:
        study = optuna.create_study(storage=storage, study_name="search", direction="maximize", load_if_exists=True)
        while True:
            unfinished = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
            if len(study.get_trials(deepcopy=False)) - len(unfinished) >= trials:
                break
            trial = optuna.trial.Trial(study, unfinished[0]._trial_id) if unfinished else study.ask()
            values = _draw(trial, plan.search.keys, base.training.seed)
            progress(f"trial {trial.number + 1} of {trials}: {values}")
            config = TrainConfig.load(merged(base.to_dict(), nested(values)))
            score, reason = _train(config, folder / f"trial-{trial.number}")
            if score is None:
                trial.set_user_attr("reason", reason)
                study.tell(trial, state=TrialState.FAIL)
            else:
                study.tell(trial, score)
        ended = [t for t in study.get_trials(deepcopy=False) if t.state.is_finished()]
        rows = [Trial(t.number, t.params, t.value, t.state.name.lower()) for t in ended]
        scored = [row for row in rows if row.score is not None]
        return SearchResult(rows, max(scored, key=lambda row: row.score or 0.0, default=None))
    finally:  # Python 3.13 warns of a database that is left open
        storage.remove_session()
        storage.engine.dispose()


def _draw(trial: optuna.Trial, keys: dict[str, Any], seed: int) -> dict[str, Any]:
    """Draw a value for every key."""
    from optuna.samplers import TPESampler

    values: dict[str, Any] = {}
    for place, (key, space) in enumerate(keys.items()):
        # One seed per value: a value that was drawn before a stop does not change the next.
        seed_of_value = 1000 * (seed + trial.number) + place
        trial.study.sampler = TPESampler(seed=seed_of_value, n_startup_trials=5, multivariate=False)
        if isinstance(space, list):
            values[key] = trial.suggest_categorical(key, space)
            continue
        low, high, log = space["low"], space["high"], space.get("log", False)
        whole_numbers = isinstance(low, int) and isinstance(high, int)
        suggest: Callable[..., Any] = trial.suggest_int if whole_numbers else trial.suggest_float
        values[key] = suggest(key, *((low, high) if whole_numbers else (float(low), float(high))), log=log)
    return values


def _train(config: TrainConfig, run: Path) -> tuple[float | None, str]:
    """Train one trial; return its score (a loss negated), or None and the reason of the failure."""
    from triaffect.training.trainer import train

    try:
        runs.begin(run, config)
        train(config, run, resume=True)
    except Exception as error:
        return None, str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
    key, mode = config.training.criterion()
    return float(runs.read_summary(run)["best"][key]) * (-1 if mode == "min" else 1), ""
