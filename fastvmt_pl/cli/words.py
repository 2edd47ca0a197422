"""The words of a command line: options from a function's parameters, in any of their spellings."""

import argparse
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import Parameter, getdoc, signature
from itertools import zip_longest
from types import UnionType
from typing import Any, NamedTuple, Union, Unpack, get_args, get_origin, get_type_hints

import docstring_parser
import jsonargparse

from fastvmt_pl.runs.old_spellings import warn_of_old

REPEATED = ("loras", "finish_loras")
"""Options that may be given several times, for a list."""


class Command(NamedTuple):
    """A command.

    Attributes:
        detail: What there is to know beyond its summary, with an example.
        function: Its parameters are the options, and its docstring is their help.
        run: Takes the options' values and prints. Default: the function itself.
        hidden: Parameters of the function that are no options.
    """

    detail: str
    function: Callable[..., Any]
    run: Callable[..., None] | None = None
    hidden: frozenset[str] = frozenset()


class _Help(jsonargparse.DefaultHelpFormatter):
    """Help in paragraphs, in which a switch has no value."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = (" ".join(part.split()) for part in text.split("\n\n"))
        return "\n\n".join(textwrap.fill(line, width, break_on_hyphens=False) for line in lines)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        invocation = str(super()._format_action_invocation(action))
        return re.sub(r", --\S+\+ \w+", "", invocation).replace(" ,", ",").rstrip()

    def _format_args(self, action: argparse.Action, default_metavar: Any) -> str:
        switch = any(name.startswith("--no-") for name in action.option_strings)
        return "" if switch else str(super()._format_args(action, default_metavar))

    def _expand_help(self, action: argparse.Action) -> str:
        text = re.sub(r"Optional\[Literal\[(.*?)\]\]", r"\1", str(super()._expand_help(action)))
        return re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", text)


class HyphenParser(jsonargparse.ArgumentParser):
    """A parser whose options have hyphens, where parameters have underscores."""

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        """Add an argument."""
        hyphenated = [name.replace("_", "-") if name.startswith("-") else name for name in names]
        action: argparse.Action = super().add_argument(*hyphenated, **options)
        return action


def parse(prog: str, summary: str, command: Command, args: Sequence[str], old: Mapping[str, str]) -> dict[str, Any]:
    """Return the values of a command's options; a list that it needs takes many words.

    Args:
        prog: What to call the program.
        summary: What the command does.
        command: The command.
        args: The words after its name.
        old: Present names of its options by their old ones.

    Raises:
        argparse.ArgumentError: If a word is no option, or its value cannot be used.
    """
    parser = HyphenParser(
        prog=prog,
        description=f"{summary}\n\n{command.detail}",
        exit_on_error=False,
        print_config=None,
        formatter_class=_Help,
    )
    parameters = signature(command.function).parameters.items()
    needed = {name: each for name, each in parameters if each.default is Parameter.empty}
    lists = {name: get_args(each.annotation) for name, each in needed.items() if get_origin(each.annotation) is list}
    described = {
        each.arg_name: each.description for each in docstring_parser.parse(getdoc(command.function) or "").params
    }
    for name, (kind,) in lists.items():
        parser.add_argument(name, type=kind, nargs="+", help=described.get(name))
    positional = "jobs" not in needed  # a list of jobs is named by an option
    skip: set[str | int] = {*lists, *command.hidden}
    parser.add_function_arguments(
        command.function, as_group=False, as_positional=positional, fail_untyped=True, skip=skip
    )
    switches = set(_switches(command.function)) - skip
    for action in parser._actions:
        if action.dest in switches:
            action.option_strings = [f"--{action.dest.replace('_', '-')}", f"--no-{action.dest.replace('_', '-')}"]
    read = parser.parse_args(list(respelled(args, switches, old)))
    return dict(parser.instantiate_classes(read).as_dict())


def _switches(function: Callable[..., Any]) -> Iterator[str]:
    """Yield the parameters of a function, those of its options' TypedDict too, that are true or false."""
    for name, hint in get_type_hints(function).items():
        if get_origin(hint) is Unpack:
            yield from (inner for inner, kind in get_type_hints(get_args(hint)[0]).items() if _is_switch(kind))
        elif _is_switch(hint):
            yield name


def _is_switch(hint: Any) -> bool:
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return bool in kinds and set(kinds) <= {bool, type(None)}


def respelled(args: Sequence[str], switches: set[str], old: Mapping[str, str]) -> Iterator[str]:
    """Yield words with the present names of options, in hyphens, and with ``--x=true`` or ``--x=false`` for switches.

    >>> list(respelled(["clip.mp4", "--num_steps", "3", "--no-baseline", "--check", "word"], {"baseline", "check"}, {}))
    ['clip.mp4', '--num-steps', '3', '--baseline=false', '--check=true', 'word']

    Args:
        args: The words.
        switches: Names of options that are true or false.
        old: Present names of options by their old ones.
    """
    rest = list(args)
    while rest:
        word = rest.pop(0)
        if word == "--" or not word.startswith("--"):
            yield word
            if word == "--":
                yield from rest
                rest = []
            continue
        option, equals, value = word.partition("=")
        name = option[2:].replace("-", "_")
        if name in old:
            warn_of_old(option, f"--{hyphenated(old[name])}")
            name = old[name]
        if name.startswith("no_") and name[3:] in switches and not equals:
            yield f"--{hyphenated(name[3:])}=false"
        elif name in REPEATED:
            yield f"--{hyphenated(name)}+{equals}{value}"
        elif name not in switches or equals:
            yield f"--{hyphenated(name)}{equals}{value}"
        elif rest and rest[0] in ("true", "false"):  # as earlier versions had it
            value = rest.pop(0)
            warn_of_old(f"{option} {value}", f"--{'' if value == 'true' else 'no-'}{hyphenated(name)}")
            yield f"--{hyphenated(name)}={value}"
        else:
            yield f"--{hyphenated(name)}=true"


def hyphenated(name: str) -> str:
    """Return a name with hyphens.

    >>> hyphenated("num_steps")
    'num-steps'
    """
    return name.replace("_", "-")


def with_underscores(args: Sequence[str]) -> list[str]:
    """Return the words of a LightningCLI, whose options have underscores, from those with hyphens.

    A dotted option without a value is a switch, turned off by ``no``.

    >>> with_underscores(["--model.num-steps=3", "--ckpt-path", "my-run.ckpt", "--no-model.baseline"])
    ['--model.num_steps=3', '--ckpt_path', 'my-run.ckpt', '--model.baseline=false']
    """
    return [_underscored(word, following) for word, following in zip_longest(args, args[1:], fillvalue="--")]


def _underscored(word: str, following: str) -> str:
    option, equals, value = word.partition("=")
    if not word.startswith("--"):
        return word
    name = option[2:].replace("-", "_")
    if "." not in name or equals or name.endswith(".help"):
        return f"--{name}{equals}{value}"
    if name.startswith("no_"):
        return f"--{name[3:]}=false"
    return f"--{name}=true" if following.startswith("--") else f"--{name}"
