"""A study as short YAML, read and checked whole before anything is trained."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from triaffect.io import InputError, bundled_file
from triaffect.labels import TASKS
from triaffect.training.config import TrainConfig
from triaffect.training.run_folder import flat

KEYS = (
    "title", "question", "base", "runs", "heads", "joined", "fusions", "compare", "seeds", "paper", "search",
)  # fmt: skip
GROUPS = ("data", "model", "losses", "balancing", "coupling", "training")
ENTRY_KEYS = {
    "heads": ("name", "features", "joint", "model", "losses", "training"),
    "joined": ("name", "members"),
    "fusions": ("name", "single", "multi", "lambdas"),
}
PAPER_KEYS = ("source", "dataset", "frames", "note", "rows")
HEAD_KEYS = re.compile(
    r"losses\..*|model\.(head|hidden|dropout|tasks)"
    r"|training\.(epochs|batch|optimizer|lr|weight_decay|momentum|early_stop|seed)"
)
"""What heads on frozen features can be told."""


@dataclass
class Heads:
    """Heads to train on the frozen features of a run or a model folder."""

    features: str
    config: TrainConfig
    joint: bool = False


@dataclass
class Fusion:
    """Late fusion; `lambdas` is `paper` or `tuned`."""

    single: list[str]
    multi: str
    lambdas: str = "paper"


@dataclass
class Recipe:
    """A study, resolved.

    Attributes:
        title: Of the report.
        question: What the study asks, in a sentence.
        runs: Trainings by name.
        heads: Heads on frozen features by name.
        joined: Name -> models of different tasks that count as one system.
        fusions: Late fusions by name.
        compare: Pairs of models to test against each other; None for those that hold the same tasks.
        paper: What the paper reported, as the recipe says it.
        search: The run to vary, and its keys with what to try.
        raw: All of it as plain data, for `recipe.yaml`.
    """

    title: str
    question: str
    runs: dict[str, TrainConfig]
    heads: dict[str, Heads] = field(default_factory=dict)
    joined: dict[str, list[str]] = field(default_factory=dict)
    fusions: dict[str, Fusion] = field(default_factory=dict)
    compare: list[tuple[str, str]] | None = None
    paper: dict[str, Any] | None = None
    search: dict[str, Any] | None = None
    raw: dict[str, Any] = field(default_factory=dict)
    tasks: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Of every model that the recipe names, in the order in which they can be made."""

    def members(self, name: str) -> list[str]:
        """The models that a system is made of; none for one that is trained."""
        fusion = self.fusions.get(name)
        return [*fusion.single, fusion.multi] if fusion else self.joined.get(name, [])

    @property
    def split(self) -> str:
        """The judged split."""
        return next(iter(self.runs.values())).data.val


def read_recipe(
    source: str | Path, index: str, images: str | None = None, changes: Sequence[str] = (), check_files: bool = True
) -> Recipe:
    """Reads a recipe and checks everything that it names.

    Args:
        source: The file, or the name of a bundled recipe.
        index: The index that every run reads.
        images: Its image root, where the index does not know it.
        changes: `key=value` on top, such as `base.model.backbone=resnet18` or `runs.va.training.lr=1e-4`; a run set to
            null is left out.
        check_files: Also check that backbones and weights files exist.

    Raises:
        InputError: An unknown key, a model that is not there, a value that makes no sense; named.
    """
    path = bundled_file("studies", source)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is not YAML ({' '.join(str(error).split())}); mend it") from None
    try:
        if not isinstance(raw, dict):
            raise InputError("holds no keys; a recipe has title, base and runs at least")
        return _resolve(_changed(raw, changes), index, images, check_files)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _changed(raw: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    _known("recipe", raw, KEYS)
    for key, of in (("base", dict), ("runs", dict), *((key, list) for key in ENTRY_KEYS)):
        if not isinstance(raw.setdefault(key, of()), of):
            raise InputError(f"{key} is not a {'mapping' if of is dict else 'list'}")
    raw = {**raw, "base": nested(raw["base"]), "runs": {n: nested(r or {}) for n, r in raw["runs"].items()}}
    raw["heads"] = [nested(entry) for entry in raw["heads"]]
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
    """Dotted keys as nested mappings: `{model.size: 64}` is `{model: {size: 64}}`."""
    if not isinstance(mapping, dict):
        raise InputError(f"{mapping!r} stands where a mapping of keys is needed")
    found: dict[str, Any] = {}
    for key, value in mapping.items():
        first, _, rest = str(key).partition(".")
        inner = nested({rest: value}) if rest else (nested(value) if isinstance(value, dict) else value)
        found[first] = merged(found.get(first), inner)
    return found


def merged(a: Any, b: Any) -> Any:
    """`b` on top of `a`, key by key."""
    if not (isinstance(a, dict) and isinstance(b, dict)):
        return copy.deepcopy(b)
    return {**a, **{key: merged(a.get(key), value) for key, value in b.items()}}


def _resolve(raw: dict[str, Any], index: str, images: str | None, check_files: bool) -> Recipe:
    if not raw["runs"]:
        raise InputError("runs is empty; name at least one, such as {va: {model.tasks: [va]}}")
    for key, known in ENTRY_KEYS.items():
        for entry in raw[key]:
            _known(key, entry, known)
            if missing := [k for k in known[: 3 if key == "fusions" else 2] if k not in entry]:
                raise InputError(f"{key}: an entry lacks {missing[0]}: {entry}")
    data = {"data": {"index": str(index), **({"images": str(images)} if images else {})}}

    def config(where: str, *parts: Mapping[str, Any]) -> TrainConfig:
        whole: dict[str, Any] = {}
        for part in (raw["base"], *parts, data):
            whole = merged(whole, part)
        try:
            return TrainConfig.load(whole)
        except InputError as error:
            raise InputError(f"{where}: {str(error).removeprefix('configuration: ')}") from None

    for where, groups in {"base": raw["base"], **{f"run {name}": run for name, run in raw["runs"].items()}}.items():
        _known(where, groups, GROUPS)
    recipe = Recipe(raw.get("title") or "Study", raw.get("question") or "", {}, raw=raw)
    seeds = raw.get("seeds") or [None]
    for seed in seeds:
        own = [{"training": {"seed": seed}}] if seed is not None else []
        tail = f"-seed{seed}" if len(seeds) > 1 else ""
        _add(recipe, raw, tail, lambda where, part, own=own: config(where, part, *own))
    if len({run.data.val for run in recipe.runs.values()}) > 1:
        raise InputError("the runs have different data.val; a study judges all on one split")
    _check_search(recipe, raw, config)
    if raw.get("paper"):
        _known("paper", raw["paper"], PAPER_KEYS)
        recipe.paper = raw["paper"]
    if check_files:
        for name, run in recipe.runs.items():
            _check_files(name, run)
    return recipe


def _add(recipe: Recipe, raw: dict[str, Any], tail: str, config: Any) -> None:
    """Everything of the recipe once, its names ending in `tail`."""
    seen: set[str] = set()

    def new(name: Any, kind: str, tasks: Iterable[str]) -> str:
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.+-]*", name):
            raise InputError(f"{kind}: {name!r} is no name; use letters, digits, - and _")
        if name in seen:
            raise InputError(f"{kind}: {name} is already the name of another model")
        seen.add(name)
        recipe.tasks[name + tail] = tuple(task for task in TASKS if task in set(tasks))
        return name + tail

    def members(where: str, names: Any) -> list[str]:
        if not isinstance(names, list) or not names:
            raise InputError(f"{where}: give a list of models")
        for name in names:
            if name not in seen:
                near = difflib.get_close_matches(str(name), seen, 1)
                raise InputError(f"{where}: no model {name!r}; {f'did you mean {near[0]}?' if near else sorted(seen)}")
        return [name + tail for name in names]

    def distinct(where: str, names: list[str]) -> list[str]:
        tasks = [task for name in names for task in recipe.tasks[name]]
        if len(set(tasks)) < len(tasks):
            raise InputError(f"{where}: two of {', '.join(names)} hold the same task; take each task from one model")
        return tasks

    for name, overrides in raw["runs"].items():
        run = config(f"run {name}", overrides)
        recipe.runs[new(name, "runs", run.model.tasks)] = run
    for entry in raw["heads"]:
        settings = {key: value for key, value in entry.items() if key in ("model", "losses", "training")}
        if strange := [key for key in flat(settings) if not HEAD_KEYS.fullmatch(key)]:
            raise InputError(f"heads {entry['name']}: {strange[0]} has no meaning for heads on frozen features")
        source = entry["features"]
        if source not in raw["runs"] and not Path(source, "config.json").is_file():
            raise InputError(f"heads {entry['name']}: {source!r} is neither a run of this recipe nor a model folder")
        head = config(f"heads {entry['name']}", settings)
        name = new(entry["name"], "heads", head.model.tasks)
        source = source + tail if source in raw["runs"] else source
        recipe.heads[name] = Heads(source, head, bool(entry.get("joint", False)))
    for entry in raw["joined"]:
        names = members(f"joined {entry['name']}", entry["members"])
        recipe.joined[new(entry["name"], "joined", distinct(f"joined {entry['name']}", names))] = names
    for entry in raw["fusions"]:
        where = f"fusion {entry['name']}"
        single, [multi] = members(where, entry["single"]), members(where, [entry["multi"]])
        tasks = distinct(where, single)
        if not set(tasks) & set(recipe.tasks[multi]):
            raise InputError(f"{where}: {', '.join(single)} and {multi} share no task")
        lambdas = entry.get("lambdas", "paper")
        if lambdas not in ("paper", "tuned"):
            raise InputError(f"{where}: lambdas is {lambdas!r}; use paper or tuned")
        name = new(entry["name"], "fusions", (*tasks, *recipe.tasks[multi]))
        recipe.fusions[name] = Fusion(single, multi, lambdas)
    if raw.get("compare") is not None:
        pairs = []
        for pair in raw["compare"]:
            names = members(f"compare {pair}", pair)
            if len(names) != 2 or not set(recipe.tasks[names[0]]) & set(recipe.tasks[names[1]]):
                raise InputError(f"compare {pair}: name two models that share a task")
            pairs.append((names[0], names[1]))
        recipe.compare = [*(recipe.compare or []), *pairs]


def _check_search(recipe: Recipe, raw: dict[str, Any], config: Any) -> None:
    search = raw.get("search")
    if not search:
        return
    _known("search", search, ("run", "keys"))
    run, keys = search.get("run"), search.get("keys")
    if run not in raw["runs"] or not isinstance(keys, dict) or not keys:
        raise InputError(f"search: needs a run of this recipe (not {run!r}) and keys to vary")
    for key, space in keys.items():
        if isinstance(space, dict):
            _known(f"search {key}", space, ("low", "high", "log"))
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
    recipe.search = search


def _check_files(name: str, run: TrainConfig) -> None:
    import timm

    backbone, weights = run.model.backbone, run.model.pretrained
    if ":" not in backbone and not timm.is_model(backbone):
        near = difflib.get_close_matches(backbone, timm.list_models(), 3)
        raise InputError(f"run {name}: timm has no backbone {backbone!r}; near it: {', '.join(near) or 'none'}")
    if isinstance(weights, str) and not Path(weights).exists():
        raise InputError(
            f"run {name}: no weights {weights!r}; give model.pretrained another path, or leave the run out with "
            f"--set runs.{name}=null"
        )


def _known(where: str, given: Any, known: Sequence[str]) -> None:
    if not isinstance(given, dict):
        raise InputError(f"{where}: {given!r} stands where a mapping of keys is needed")
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            raise InputError(
                f"{where}: no key {key!r}; {f'did you mean {near[0]}?' if near else 'there are ' + ', '.join(known)}"
            )
