"""The command line: finds a verb, reads its options, runs it; nothing imports this module.

The verbs are the plain functions of `verbs`. A signature is the options: required parameters are positional, lists take
several values, booleans are switches. jsonargparse reads types and docstrings; the few lines in `_parser` add what its
auto_cli lacks for people at a prompt (several positional values, bare switches), and every verb but the called one
stays unread, so that help is instant.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from triaffect.io import InputError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

# Verb -> what `triaffect --help` says of it; the order is the order of the work.
VERBS = {
    "index": "read annotations in any layout into one table, a row a frame",
    "stats": "count an index: splits, missing labels, balance, weights, leaks",
    "show": "draw random crops with their labels, to check data by eye",
    "leaks": "find source videos that stand in two indexes",
    "analyze": "describe the faces of photos, videos or a camera",
    "page": "the same as a web page on this machine",
    "train": "train a single-task or a multi-task model",
    "predict": "predict the images of an index with a trained model",
    "pack": "put an index's images into one file, for clusters and object stores",
    "features": "compute a backbone's features once, for heads that train in seconds",
    "fuse": "fuse single-task with multi-task predictions, or average any number",
    "tune": "fit thresholds, biases and smoothing, and say honestly what they are worth",
    "score": "score predictions by the official measures, with floors and intervals",
    "export": "write a model as one ONNX or OpenVINO file, float or int8, and check it against torch",
    "submit": "write predictions as an ABAW submission",
    "study": "run a recipe: many trainings, their fusions and comparison, one report",
    "report": "make the page of a study again",
    "demo": "the main job on the bundled sample, in minutes",
    "sample": "copy out the bundled sample of rendered faces",
    "render": "make faces with exact labels, in the layout of Aff-Wild2",
}

# Verb -> the extra that its heavy imports need.
EXTRAS = {
    "train": "train",
    "predict": "train",
    "pack": "train",
    "features": "train",
    "export": "train",
    "study": "train",
    "demo": "train",
    "render": "render",
    "page": "demo",
}


def _parser(verb: str, function: Callable[..., Any]) -> ArgumentParser:
    import inspect
    import typing

    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog=f"triaffect {verb}")
    hints = typing.get_type_hints(function)
    by_hand: set[str | int] = set()
    for name, parameter in inspect.signature(function).parameters.items():
        hint, required = hints[name], parameter.default is inspect.Parameter.empty
        option = [] if required else [f"--{name}"]
        elements = [
            a for h in (hint, *typing.get_args(hint)) if typing.get_origin(h) is list for a in typing.get_args(h)
        ]
        if elements:
            # Repeating an option adds to it; a positional one must have neither default nor action.
            default: dict[str, Any] = {"default": None, "action": "extend"} if option else {}
            parser.add_argument(*(option or [name]), nargs="+", type=elements[0], help=_help(function, name), **default)
        elif hint is bool:
            parser.add_argument(f"--{name}", action="store_true", help=_help(function, name))
        else:
            continue
        by_hand.add(name)
    parser.add_function_arguments(function, as_positional=True, skip=by_hand)
    return parser


def _train_parser(function: Callable[..., Any]) -> ArgumentParser:
    from triaffect.training.config import config_parser

    parser = config_parser(prog="triaffect train", description=(function.__doc__ or "").split("\n\n")[0])
    parser.add_argument("--config", action="config", help="A recipe: YAML with any of the keys below.")
    parser.add_argument("--out", type=str, required=True, help=_help(function, "out"))
    parser.add_argument("--resume", action="store_true", help=_help(function, "resume"))
    return parser


def _own_config(run: str) -> list[str]:
    path = Path(run, "config.yaml")
    return ["--config", str(path)] if path.exists() else []


def _help(function: Callable[..., Any], name: str) -> str:
    from docstring_parser import parse

    return next((p.description or "" for p in parse(function.__doc__ or "").params if p.arg_name == name), "")


def _overview() -> str:
    from triaffect import __version__

    width = max(map(len, VERBS), default=0)
    lines = [f"triaffect {__version__}: valence-arousal, expressions and action units from faces", ""]
    lines += [f"  {verb:<{width}}  {line}" for verb, line in VERBS.items()]
    return "\n".join([*lines, "", "triaffect VERB --help tells a verb's options."])


def main(args: list[str] | None = None) -> int:
    """Runs one verb.

    Args:
        args: The words after `triaffect`; from the command line where left out.

    Returns:
        The exit code: 0, 1 for a check that found something, 2 for bad input, 130 after Ctrl-C.
    """
    words = sys.argv[1:] if args is None else args
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if words[0] in ("-V", "--version"):
        from triaffect import __version__

        print(__version__)
        return 0
    verb = words[0]
    if verb not in VERBS:
        import difflib

        near = difflib.get_close_matches(verb, VERBS, 1)
        hint = f"did you mean {near[0]}?" if near else "triaffect --help lists them"
        print(f"triaffect: no verb {verb!r}; {hint}", file=sys.stderr)
        return 2
    from triaffect import cli as verbs

    function = getattr(verbs, verb)
    try:
        parser = _train_parser(function) if verb == "train" else _parser(verb, function)
        values = parser.parse_args(words[1:])
        if verb == "train" and values.resume and not values.config:
            # The run's own configuration; what else was given stands on top, and is refused there if it differs.
            values = parser.parse_args([*_own_config(values.out), *words[1:]])
        return int(function(**vars(parser.instantiate(values))) or 0)
    except InputError as error:
        print(f"triaffect {verb}: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if verb not in EXTRAS or (error.name or "").startswith("triaffect"):
            raise
        print(f"triaffect {verb} needs {error.name}: pip install 'triaffect[{EXTRAS[verb]}]'", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"triaffect {verb}: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
