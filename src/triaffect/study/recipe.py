"""A study as short YAML, read and checked as a whole before anything is trained."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from triaffect.data.submission import TRACKS
from triaffect.io import BASE, InputError, bundled_file, model_folder
from triaffect.labels import TASKS
from triaffect.study.plan import SYSTEM_KINDS, Heads, Search, StudyPlan, Submission, System
from triaffect.training.config import CARRIED_OVER, ModelConfig, TrainConfig
from triaffect.training.run_folder import flat

GROUPS = [group.name for group in fields(TrainConfig)]
ENTRY_KEYS = {
    "heads": ("name", "features", "joint", "model", "losses", "training"),
    "joined": ("name", "members"),
    "tuned": ("name", "model"),
    "fusions": ("name", "single", "multi", "lambdas"),
    "blends": ("name", "members"),
}
KEYS = (
    "title", "question", "base", "encoders", "runs", *ENTRY_KEYS, "submission", "compare", "seeds", "paper", "search",
)  # fmt: skip
REQUIRED_KEYS = {**ENTRY_KEYS, "heads": ("name", "features"), "fusions": ("name", "single", "multi")}
SUBMISSION_KEYS = [key.name for key in fields(Submission)]
PAPER_KEYS = ("source", "dataset", "frames", "note", "rows", "others")
EVALUATED = ("data.val", "data.val_fraction", "data.val_stride", "model.classes")
"""Config keys that all runs of a study must share."""

HEAD_KEYS = re.compile(
    r"losses\..*|model\.(head|hidden|dropout|tasks|classes|temporal|temporal_model|causal|fps)"
    r"|training\.(epochs|batch|optimizer|lr|weight_decay|momentum|early_stop|seed)"
)
"""Config keys that have an effect on heads trained on frozen features."""


def read_study(
    source: str | Path, index: str, images: str | None = None, changes: Sequence[str] = (), check_files: bool = True
) -> StudyPlan:
    """Read a study and check everything that it names.

    Args:
        source: The file, or the name of a bundled study.
        index: The index that every run reads.
        images: Its image folder; by default the one it was made with.
        changes: `key=value` pairs that replace keys of the study, such as `base.model.backbone=resnet18` or
            `runs.va.training.lr=1e-4`; a run set to null is dropped.
        check_files: Also check that backbones and weights files exist.

    Raises:
        InputError: An unknown key, a missing model or an invalid value; the message names it.
    """
    path = bundled_file("studies", source)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is not YAML ({' '.join(str(error).split())}); correct the file") from None
    try:
        if not isinstance(raw, dict):
            raise InputError("has no keys; a study has title, base and runs at least")
        return _resolve(_with_changes(raw, changes), index, images, check_files)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _with_changes(raw: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """Nest dotted keys and apply `key=value` pairs."""
    _check_keys("study", raw, KEYS)
    kinds: dict[str, type] = dict.fromkeys(("base", "encoders", "runs"), dict) | dict.fromkeys(ENTRY_KEYS, list)
    for key, kind in kinds.items():
        if not isinstance(raw.setdefault(key, kind()), kind):
            raise InputError(f"{key} is not a {'mapping' if kind is dict else 'list'}")
    raw = {**raw, "base": nested(raw["base"]), "runs": {name: nested(run or {}) for name, run in raw["runs"].items()}}
    raw["heads"] = [nested(entry) for entry in raw["heads"]]
    raw["encoders"] = {k: nested(v) if isinstance(v, dict) else v for k, v in raw["encoders"].items()}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise InputError(f"--set {change}: write it as key=value, such as base.training.epochs=3")
        node: Any = raw
        *parts, last = key.split(".")
        for part in parts:
            if isinstance(node, list):
                node = next((entry for entry in node if isinstance(entry, dict) and entry.get("name") == part), None)
            else:
                node = node.setdefault(part, {})
            if not isinstance(node, dict | list):
                raise InputError(f"--set {change}: there is nothing below {part}")
        if not isinstance(node, dict):
            raise InputError(f"--set {change}: name a key of one entry of {parts[-1]}")
        node[last] = yaml.safe_load(value)
    raw["runs"] = {name: run for name, run in raw["runs"].items() if run is not None}
    return raw


def nested(mapping: Any) -> dict[str, Any]:
    """Expand dotted keys: `{model.size: 64}` becomes `{model: {size: 64}}`."""
    if not isinstance(mapping, dict):
        raise InputError(f"{mapping!r} is not a mapping of keys")
    result: dict[str, Any] = {}
    for key, value in mapping.items():
        first, _, rest = str(key).partition(".")
        inner = nested({rest: value}) if rest else (nested(value) if isinstance(value, dict) else value)
        result[first] = merged(result.get(first), inner)
    return result


def merged(a: Any, b: Any) -> Any:
    """Merge two nested mappings; values of `b` win."""
    if not (isinstance(a, dict) and isinstance(b, dict)):
        return copy.deepcopy(b)
    return {**a, **{key: merged(a.get(key), value) for key, value in b.items()}}


def _resolve(raw: dict[str, Any], index: str, images: str | None, check_files: bool) -> StudyPlan:
    if not raw["runs"] and not raw["heads"]:
        raise InputError("runs is empty; name at least one, such as {va: {model.tasks: [va]}}, or heads")
    for where, groups in {"base": raw["base"], **{f"run {name}": run for name, run in raw["runs"].items()}}.items():
        _check_keys(where, groups, GROUPS)
    for kind, keys in ENTRY_KEYS.items():
        for entry in raw[kind]:
            _check_keys(kind, entry, keys)
            if missing := [key for key in REQUIRED_KEYS[kind] if key not in entry]:
                raise InputError(f"{kind}: an entry lacks {missing[0]}: {entry}")
    data = {"data": {"index": str(index), **({"images": str(images)} if images else {})}}

    def config(where: str, *parts: Mapping[str, Any], base: Mapping[str, Any] = raw["base"]) -> TrainConfig:
        values = base
        for part in (*parts, data):
            values = merged(values, part)
        try:
            return TrainConfig.load(dict(values))
        except InputError as error:
            raise InputError(f"{where}: {str(error).removeprefix('config: ')}") from None

    plan = StudyPlan(raw.get("title") or "Study", raw.get("question") or "", paper=raw.get("paper"), raw=raw)
    for name, encoder in raw["encoders"].items():
        plan.encoders[name] = _read_encoder(name, encoder, config)
    seeds = raw.get("seeds") or [None]
    suffixes = [f"-seed{seed}" if len(seeds) > 1 else "" for seed in seeds]
    for seed, suffix in zip(seeds, suffixes, strict=True):
        _SeedModels(plan, raw, suffix, seed, config).add()
    for key in EVALUATED:
        if len({flat(run.to_dict())[key] for run in plan.configs.values()}) > 1:
            raise InputError(f"the runs have different {key}; a study evaluates all models alike")
    if raw.get("submission"):
        plan.submission = _read_submission(plan, raw["submission"], suffixes[0])
    if raw.get("search"):
        plan.search = _read_search(raw, suffixes[0], config)
    if plan.paper:
        _check_keys("paper", plan.paper, PAPER_KEYS)
    if check_files:
        for name, run in plan.runs.items():
            _check_files(f"run {name}", run.model, f"drop the run with --set runs.{name}=null")
        for name, encoder in plan.encoders.items():
            if isinstance(encoder, ModelConfig):
                _check_files(f"encoder {name}", encoder, f"name another with --set encoders.{name}=FOLDER")
            else:
                model_folder(encoder)
    return plan


def _read_encoder(name: str, encoder: Any, config: Callable[..., TrainConfig]) -> str | ModelConfig:
    """Return a model folder, or the model that is made of the keys."""
    if isinstance(encoder, dict):
        return config(f"encoder {name}", base={"model": encoder}).model
    if not isinstance(encoder, str):
        raise InputError(f"encoder {name}: {encoder!r} is neither a model folder nor keys of a model, such as backbone")
    return encoder


def _read_submission(plan: StudyPlan, entry: Any, suffix: str) -> Submission | None:
    _check_keys("submission", entry, SUBMISSION_KEYS)
    model, track = f"{entry.get('model')}{suffix}", entry.get("track", "mtl")
    if model not in plan.tasks:
        raise InputError(f"submission: no model {entry.get('model')!r}; name one of {', '.join(plan.tasks)}")
    if track not in TRACKS:
        raise InputError(f"submission: no track {track!r}; there are {', '.join(TRACKS)}")
    if missing := [task for task in TRACKS[track] if task not in plan.tasks[model]]:
        raise InputError(f"submission: {model} does not predict {missing[0]}, which track {track} needs")
    sample, images = entry.get("sample"), entry.get("images")
    for key, path in (("sample", sample), ("images", images)):
        if path and not Path(path).exists():
            raise InputError(f"submission.{key}: {path} does not exist; --set submission.{key}=PATH names another")
    return Submission(model, sample, images, track) if sample else None


@dataclass
class _SeedModels:
    """Adds every model of a study to the plan for one seed; `suffix` ends their names."""

    plan: StudyPlan
    raw: dict[str, Any]
    suffix: str
    seed: int | None
    config: Callable[..., TrainConfig]

    def add(self) -> None:
        plan, raw = self.plan, self.raw
        for name, settings in raw["runs"].items():
            run = self.config(f"run {name}", settings, self._seed(settings))
            plan.runs[self._new_name(name, "runs", run.model.tasks)] = run
        for entry in raw["heads"]:
            self._add_heads(entry)
        for key, kind in SYSTEM_KINDS.items():
            for entry in raw[key]:
                system = self._system(f"{kind} {entry['name']}", kind, entry)
                tasks = [task for member in system.members for task in plan.tasks[member]]
                plan.systems[self._new_name(entry["name"], key, tasks)] = system
        if raw.get("compare") is not None:
            plan.compare = list(map(self._pair, raw["compare"]))

    def _seed(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the seed of a model; those that have different seeds in the study file keep different ones."""
        own = settings.get("training", {}).get("seed", 0)
        return {} if self.seed is None else {"training": {"seed": self.seed + 1000 * own}}

    def _new_name(self, name: Any, kind: str, tasks: Iterable[str]) -> str:
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.+-]*", name):
            raise InputError(f"{kind}: {name!r} is not a valid name; use letters, digits, - and _")
        if name + self.suffix in self.plan.tasks:
            raise InputError(f"{kind}: {name} is already the name of another model")
        self.plan.seeds.setdefault(name, []).append(name + self.suffix)
        self.plan.tasks[name + self.suffix] = tuple(task for task in TASKS if task in set(tasks))
        return name + self.suffix

    def _members(self, where: str, names: Any) -> list[str]:
        if not isinstance(names, list) or not names:
            raise InputError(f"{where}: give a list of models")
        for name in names:
            if f"{name}{self.suffix}" not in self.plan.tasks:
                near = difflib.get_close_matches(str(name), self.plan.seeds, 1)
                hint = f"did you mean {near[0]}?" if near else sorted(self.plan.seeds)
                raise InputError(f"{where}: no model {name!r}; {hint}")
        return [f"{name}{self.suffix}" for name in names]

    def _add_heads(self, entry: Mapping[str, Any]) -> None:
        where, sources = f"heads {entry['name']}", entry["features"]
        sources = sources if isinstance(sources, list) else [sources]
        settings = {key: value for key, value in entry.items() if key in ("model", "losses", "training")}
        if unused := [key for key in flat(settings) if not HEAD_KEYS.fullmatch(key)]:
            raise InputError(f"{where}: {unused[0]} has no effect on heads on frozen features")
        features = []
        for source in sources:
            is_run = source in self.raw["runs"]
            if not is_run and source not in self.plan.encoders and not Path(str(source), "config.json").is_file():
                raise InputError(f"{where}: {source!r} is no run or encoder of this study and no model folder")
            features.append(source + self.suffix * is_run)
        # What the base says of images and backbones is for the runs.
        base = {**self.raw["base"], "data": {}, "model": {}}
        of_video = () if "temporal" in settings.get("model", {}) else ("temporal_model", "causal", "fps")
        for key, value in flat({name: self.raw["base"].get(name, {}) for name in ("data", "model")}).items():
            group, name = key.split(".", 1)
            if name in CARRIED_OVER if group == "data" else HEAD_KEYS.fullmatch(key) and name not in of_video:
                base[group][name] = value
        placeholder: Any = features if len(features) > 1 else features[0]
        on_features = {"data": {"features": placeholder}, "model": {"pretrained": placeholder}}
        config = self.config(where, settings, self._seed(settings), on_features, base=base)
        name = self._new_name(entry["name"], "heads", config.model.tasks)
        self.plan.heads[name] = Heads(features, config, bool(entry.get("joint", False)))

    def _system(self, where: str, kind: str, entry: Mapping[str, Any]) -> System:
        """Read and check a joined, tuned, fused or blended system."""
        tasks = self.plan.tasks
        if kind == "tuned":
            return System(kind, self._members(where, [entry["model"]]))
        if kind == "fusion":
            single, [multi] = self._members(where, entry["single"]), self._members(where, [entry["multi"]])
            self._check_distinct(where, single)
            if not any(set(tasks[name]) & set(tasks[multi]) for name in single):
                raise InputError(f"{where}: {', '.join(single)} and {multi} share no task")
            return System(kind, [*single, multi], _checked_lambdas(where, entry.get("lambdas", "paper")))
        members = self._members(where, entry["members"])
        if kind == "joined":
            self._check_distinct(where, members)
        elif len(members) < 2 or len({tasks[name] for name in members}) > 1:
            raise InputError(f"{where}: name at least two systems with the same tasks")
        return System(kind, members)

    def _check_distinct(self, where: str, names: list[str]) -> None:
        tasks = [task for name in names for task in self.plan.tasks[name]]
        if len(set(tasks)) < len(tasks):
            raise InputError(f"{where}: two of {', '.join(names)} have the same task; take each task from one model")

    def _pair(self, pair: Any) -> tuple[str, str]:
        names = self._members(f"compare {pair}", pair)
        if len(names) != 2 or not set(self.plan.tasks[names[0]]) & set(self.plan.tasks[names[1]]):
            raise InputError(f"compare {pair}: name two models that share a task")
        return pair[0], pair[1]


def _checked_lambdas(where: str, lambdas: Any) -> str | dict[str, float]:
    by_hand = isinstance(lambdas, dict) and set(lambdas) <= set(TASKS)
    if by_hand and not all(isinstance(share, int | float) and 0 <= share <= 1 for share in lambdas.values()):
        raise InputError(f"{where}: lambdas {lambdas} are not all between 0 and 1")
    if not by_hand and lambdas not in ("paper", "tuned"):
        raise InputError(f"{where}: lambdas is {lambdas!r}; use paper, tuned or {{va: 0.4, expr: 0.6, au: 0.6}}")
    return lambdas


def _read_search(raw: dict[str, Any], suffix: str, config: Callable[..., TrainConfig]) -> Search:
    _check_keys("search", raw["search"], ("run", "keys"))
    run, keys = raw["search"].get("run"), raw["search"].get("keys")
    if run not in raw["runs"] or not isinstance(keys, dict) or not keys:
        raise InputError(f"search: needs a run of this study (not {run!r}) and keys to vary")
    for key, space in keys.items():
        if isinstance(space, dict):
            _check_keys(f"search {key}", space, ("low", "high", "log"))
            values: list[Any] = [space.get("low"), space.get("high")]
            try:
                if not float(values[0]) < float(values[1]):
                    raise ValueError
            except (TypeError, ValueError):
                raise InputError(f"search {key}: give low and high, or a list of values") from None
        elif not isinstance(space, list) or not space:
            raise InputError(f"search {key}: give {{low, high, log}}, or a list of values")
        else:
            values = space
        for value in values:
            config(f"search {key}", raw["runs"][run], nested({key: value}))
    return Search(run + suffix, keys)


def _check_files(where: str, model: ModelConfig, advice: str) -> None:
    import timm

    backbone, weights = model.backbone, model.weights or model.pretrained
    if ":" not in backbone and not timm.is_model(backbone):
        near = difflib.get_close_matches(backbone, timm.list_models(), 3)
        raise InputError(f"{where}: timm has no backbone {backbone!r}; near it: {', '.join(near) or 'none'}")
    if isinstance(weights, str) and weights != BASE and not Path(weights).exists():
        key = "model.weights" if model.weights else "model.pretrained"
        raise InputError(f"{where}: no weights {weights!r}; give {key} another path, or {advice}")


def _check_keys(where: str, mapping: Any, allowed: Sequence[str]) -> None:
    if not isinstance(mapping, dict):
        raise InputError(f"{where}: {mapping!r} is not a mapping of keys")
    for key in mapping:
        if key not in allowed:
            near = difflib.get_close_matches(str(key), allowed, 1)
            hint = f"did you mean {near[0]}?" if near else f"the keys are {', '.join(allowed)}"
            raise InputError(f"{where}: no key {key!r}; {hint}")
