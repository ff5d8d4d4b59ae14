"""The command line: one plain function a verb, heavy imports inside it; nothing imports this module.

A verb's signature is its options: required parameters are positional, lists take several values, booleans are switches.
jsonargparse reads types and docstrings; the few lines in `_parser` add what its auto_cli lacks for people at a prompt
(several positional values, bare switches), and every verb but the called one stays unparsed, so that help is instant.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from triaffect.files import InputError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

# Verb -> what `triaffect --help` says of it; the order is the order of the work.
VERBS: dict[str, str] = {}

# Verb -> the extra that its heavy imports need.
EXTRAS = {
    "train": "train",
    "predict": "train",
    "features": "train",
    "study": "train",
    "demo": "train",
    "render": "render",
}


def _parser(verb: str, function: Callable[..., Any]) -> ArgumentParser:
    import inspect
    import typing

    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog=f"triaffect {verb}", description=(function.__doc__ or "").split("\n\n")[0])
    hints = typing.get_type_hints(function)
    by_hand: set[str] = set()
    for name, parameter in inspect.signature(function).parameters.items():
        hint, required = hints[name], parameter.default is inspect.Parameter.empty
        option = [] if required else [f"--{name}"]
        elements = [
            a for h in (hint, *typing.get_args(hint)) if typing.get_origin(h) is list for a in typing.get_args(h)
        ]
        if elements:
            parser.add_argument(
                *(option or [name]), nargs="+", type=elements[0], default=None, help=_help(function, name)
            )
        elif hint is bool:
            parser.add_argument(f"--{name}", action="store_true", help=_help(function, name))
        else:
            continue
        by_hand.add(name)
    parser.add_function_arguments(function, as_positional=True, skip=by_hand)
    return parser


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
    function = globals()[f"{verb}_"]
    try:
        parser = _parser(verb, function)
        values = parser.parse_args(words[1:])
        return int(function(**vars(parser.instantiate_classes(values))) or 0)
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
