"""The command line: find the verb, read its options, run it.

Each verb is a plain function in a module of this package. Its signature defines the options: required parameters are
positional, lists take several values, booleans are switches. Only the module of the verb that is called is imported,
and a verb imports what it needs inside its function, so that help is instant and needs no extra.
"""

from __future__ import annotations

import difflib
import inspect
import os
import re
import sys
import typing
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from triaffect import __version__
from triaffect.io import InputError, bundled_file, bundled_names

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


class Verb(NamedTuple):
    """Where a verb lives and what the overview says about it."""

    module: str
    summary: str
    extra: str = ""
    """The optional dependencies that it needs."""


VERB_GROUPS = {
    "use": {
        "analyze": Verb("analysis", "describe the faces of photos, videos or a camera"),
        "web": Verb("analysis", "the same as a web page on this machine", "web"),
        "convert": Verb("analysis", "write the table of analyze for OpenFace scripts, ELAN, BORIS or BIDS"),
        "agree": Verb("analysis", "compare the table of analyze with human coders: ICC, kappa, CCC, F1"),
    },
    "data": {
        "index": Verb("data", "read annotations in any layout into one table, one row per frame"),
        "stats": Verb("data", "count an index: splits, missing labels, balance, weights, leaks"),
        "show": Verb("data", "draw random crops with their labels, to check data by eye"),
        "subset": Verb("data", "write a part of an index: every n-th frame, a share of frames or videos"),
        "leaks": Verb("data", "find source videos that are in two indexes"),
        "pack": Verb("data", "put the images of an index into one file, for clusters and object stores"),
        "sample": Verb("data", "copy the bundled sample of rendered faces"),
        "render": Verb("data", "draw faces with exact labels, in the layout of Aff-Wild2", "render"),
    },
    "models": {
        "train": Verb("models", "train a single-task or a multi-task model", "train"),
        "predict": Verb("models", "predict the images of an index with a trained model"),
        "features": Verb("models", "compute a backbone's features once, for heads that train in seconds", "train"),
        "export": Verb("models", "write a model as one ONNX or OpenVINO file and compare it with torch", "train"),
    },
    "predictions": {
        "score": Verb("evaluation", "score predictions by the official measures, with baselines and intervals"),
        "fuse": Verb("evaluation", "fuse single-task with multi-task predictions, or average any number"),
        "tune": Verb("evaluation", "fit thresholds, biases and smoothing, and report what they gain"),
        "submit": Verb("evaluation", "write predictions as an ABAW submission"),
    },
    "studies": {
        "study": Verb("studies", "run many trainings, their fusion and comparison, and write a report", "train"),
        "report": Verb("studies", "write the report of a study again"),
        "demo": Verb("studies", "run everything on the bundled sample, in minutes", "train"),
    },
}
VERBS = {name: verb for group in VERB_GROUPS.values() for name, verb in group.items()}


def verb_function(verb: str) -> Callable[..., Any]:
    """Return the function that runs a verb."""
    return getattr(import_module(f"triaffect.cli.{VERBS[verb].module}"), verb)


def help_formatter() -> Any:
    """Return the class that formats help: descriptions keep their lines, defaults are shown where there is one."""
    from jsonargparse import DefaultHelpFormatter

    class HelpFormatter(DefaultHelpFormatter):
        def _fill_text(self, text: str, width: int, indent: str) -> str:
            return "".join(indent + line for line in text.splitlines(keepends=True))

        def _get_help_string(self, action: Any) -> str:
            has_default = action.option_strings and repr(action.default) not in ("None", "False", "'==SUPPRESS=='")
            return f"{action.help or ''}{f' (default: {action.default})' if has_default else ''}"

    return HelpFormatter


def verb_parser(verb: str, function: Callable[..., Any]) -> ArgumentParser:
    """Make a parser whose options are the parameters of a function."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        prog=f"triaffect {verb}", description=_summary(function), exit_on_error=False, formatter_class=help_formatter()
    )
    hints, descriptions = typing.get_type_hints(function), _descriptions(function)
    for name, parameter in inspect.signature(function).parameters.items():
        hint, required = hints[name], parameter.default is inspect.Parameter.empty
        flag = name if required else f"--{name.replace('_', '-')}"
        options: dict[str, Any] = {"help": descriptions.get(name, "")}
        lists = [kind for kind in (hint, *typing.get_args(hint)) if typing.get_origin(kind) is list]
        if lists:
            options |= {"nargs": "*" if "list" in hints else "+", "type": typing.get_args(lists[0])[0]}
            if not required:  # an option that is repeated adds to its list
                options |= {"default": None, "action": "extend"}
        elif hint is bool:
            options["action"] = "store_true"
        else:
            options["type"] = hint
            if not required:
                options["default"] = parameter.default
        parser.add_argument(flag, **options)
    return parser


COMMON_TRAIN_OPTIONS = """
The options that most runs set:
  --config FILE           a YAML file with any of the options, or a bundled config: {configs}
  --data.index FILE       the index that `triaffect index` wrote
  --data.images DIR       its image folder, or the file that `triaffect pack` wrote
  --model.backbone NAME   any timm model
  --model.tasks [va,expr,au]   one head each; a single task makes a single-task model
  --model.pretrained WEIGHTS   true, false, a model folder or a weights file
  --training.epochs N     passes over the training split
  --training.batch N      images per step and device
  --training.lr RATE      learning rate
  --resume                continue the run in --out
"""


def train_parser(function: Callable[..., Any]) -> ArgumentParser:
    """Make the parser of `train`: every key of a config is an option."""
    from triaffect.training.config import config_parser

    common = COMMON_TRAIN_OPTIONS.format(configs=", ".join(bundled_names("configs")))
    parser = config_parser(
        prog="triaffect train",
        usage="triaffect train [--config FILE] --out FOLDER [--resume] [--KEY VALUE ...]",
        description=f"{_summary(function)}\n{common}",
        exit_on_error=False,
        formatter_class=help_formatter(),
    )
    descriptions = _descriptions(function)
    parser.add_argument("--config", action="config", help="A YAML file, or the name of a bundled config.")
    parser.add_argument("--out", type=str, required=True, help=descriptions["out"])
    parser.add_argument("--resume", action="store_true", help=descriptions["resume"])
    return parser


def option_words(verb: str, words: list[str]) -> list[str]:
    """Spell options as the parser does: `train` with underscores, as the keys of a config, other verbs with dashes.

    The name of a bundled config becomes its path.
    """
    old, new = ("-", "_") if verb == "train" else ("_", "-")
    result: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        if name.startswith("--"):
            name = "--" + name[2:].replace(old, new)
            value = str(bundled_file("configs", value)) if name == "--config" and equals else value
            word = name + equals + value
        elif result and result[-1] == "--config":
            word = str(bundled_file("configs", word))
        result.append(word)
    return result


def _run(verb: str, words: list[str]) -> int:
    from jsonargparse import ArgumentError

    function = verb_function(verb)
    parser = train_parser(function) if verb == "train" else verb_parser(verb, function)
    words = option_words(verb, words)
    try:
        values = parser.parse_args(words)
        if verb == "train" and values.resume and not values.config:
            config = Path(values.out, "config.yaml")
            if config.exists():  # the run's own config; options that differ from it are refused later, by name
                values = parser.parse_args(["--config", str(config), *words])
    except ArgumentError as error:
        message = re.sub(r'^Parser key "([^"]+)"', r"--\1", " ".join(str(error).split()))
        message = re.sub(r"a <class '(\w+)'>", r"\1", message)
        message = re.sub(r"Expected a typing.Literal\[(.*?)\]\. Got value: (\S+)", r"\2 is none of \1", message)
        unknown = re.search(r"unrecognized arguments: (--[^\s=]+)", message)
        similar = difflib.get_close_matches(unknown[1], parser._option_string_actions, 1) if unknown else []
        hint = f"did you mean {similar[0]}?" if similar else f"see triaffect {verb} --help"
        raise InputError(f"{message}; {hint}") from None
    return int(function(**vars(parser.instantiate(values))) or 0)


def _summary(function: Callable[..., Any]) -> str:
    """The docstring up to its arguments."""
    return inspect.cleandoc(function.__doc__ or "").partition("\n\nArgs:")[0]


def _descriptions(function: Callable[..., Any]) -> dict[str, str]:
    from docstring_parser import parse

    return {p.arg_name: p.description or "" for p in parse(function.__doc__ or "").params}


def _overview() -> str:
    width = max(map(len, VERBS))
    lines = [f"triaffect {__version__}: valence-arousal, expressions and action units from faces"]
    for group, verbs in VERB_GROUPS.items():
        lines += ["", f"{group}:", *(f"  {name:<{width}}  {verb.summary}" for name, verb in verbs.items())]
    lines += ["", "triaffect VERB --help lists the options of a verb."]
    lines += ['eval "$(triaffect --completion bash)" completes verbs and options; there is zsh, too.']
    return "\n".join(lines)


def main(args: list[str] | None = None) -> int:
    """Run one verb.

    Args:
        args: The words after `triaffect`; those of the command line by default.

    Returns:
        The exit code: 0, 1 for a check that failed, 2 for bad input, 130 after Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a console that cannot show λ still gets the result
            stream.reconfigure(errors="backslashreplace")
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    try:
        code = _main(sys.argv[1:] if args is None else args)
        sys.stdout.flush()
    except BrokenPipeError:  # `triaffect ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


COMPLETION = """_triaffect() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} words=
  case ${{COMP_WORDS[1]}} in
{cases}
  esac
  [ "$COMP_CWORD" = 1 ] && words="{verbs}"
  case $COMP_CWORD,$current in 1,*|*,-*) COMPREPLY=($(compgen -W "$words" -- "$current"));; esac
}}
complete -o bashdefault -o default -F _triaffect triaffect"""


def completion(shell: str) -> str:
    """Return the script that completes verbs, options and file names in a shell.

    Args:
        shell: bash or zsh.

    Raises:
        InputError: Another shell.
    """
    if shell not in ("bash", "zsh"):
        raise InputError(f"--completion {shell}: there is bash and zsh")
    options = {verb: inspect.signature(verb_function(verb)).parameters for verb in VERBS}
    cases = [
        f'    {verb}) words="--help {" ".join("--" + name.replace("_", "-") for name in parameters)}";;'
        for verb, parameters in options.items()
    ]
    script = COMPLETION.format(cases="\n".join(cases), verbs=" ".join(VERBS))
    return ("autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else "") + script


def _main(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if words[0] in ("-V", "--version"):
        print(__version__)
        return 0
    verb = words[0]
    if verb not in (*VERBS, "--completion"):
        similar = difflib.get_close_matches(verb, VERBS, 1)
        hint = f"did you mean {similar[0]}?" if similar else "triaffect --help lists them"
        print(f"triaffect: no verb {verb!r}; {hint}", file=sys.stderr)
        return 2
    try:
        if verb == "--completion":
            print(completion(" ".join(words[1:])))
            return 0
        return _run(verb, words[1:])
    except InputError as error:
        print(f"triaffect {verb}: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        extra = VERBS[verb].extra
        if not extra or (error.name or "").startswith("triaffect"):
            raise
        print(f"triaffect {verb} needs {error.name}: pip install 'triaffect[{extra}]'", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"triaffect {verb}: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
