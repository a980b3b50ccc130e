"""What may be typed after our commands, as the shells need it to complete a line; made from the argparse parsers.

Runs in: `make manual`.

The shells differ too much for one text: `completions_bash`, `completions_zsh` and `completions_fish` each write their
own from this model. Queue names are read from the configuration with awk, which answers in 2 ms where Python takes 50;
a file that cannot be read, or that is written in another style, completes to nothing.
"""

import argparse
import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: Prints the keys right below `queues:` of a YAML file in block style; a shell's word in single quotes.
QUEUES = """
    /^queues:/ { inside = 1; next }
    /^[^ #]/ { inside = 0 }
    inside && match($0, /^ +[^ #-]/) && (!depth || RLENGTH == depth) && /:( |$)/ {
        depth = RLENGTH; name = substr($0, RLENGTH); sub(/: .*$|:$/, "", name); gsub(/["\\047]/, "", name); print name
    }
"""
SYSTEM_FILE = "/etc/workqueued/workqueued.yaml"


class Kind(enum.Enum):
    """What a value is."""

    WORDS = "words"
    FILE = "file"
    DIRECTORY = "directory"
    QUEUE = "queue"
    FREE = "free"


@dataclass(frozen=True, slots=True)
class Value:
    """A value of an option, or a positional argument."""

    kind: Kind
    name: str
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Option:
    """An option; `value` is None for a switch."""

    flags: tuple[str, ...]
    help: str
    value: Value | None
    repeats: bool
    excludes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Line:
    """A command line: options, positional arguments, or verbs that have lines of their own."""

    options: tuple[Option, ...]
    arguments: tuple[Value, ...]
    verbs: tuple[tuple[str, str, "Line"], ...]

    def with_value(self) -> Iterator[Option]:
        """Options that take a value."""
        return (option for option in self.options if option.value is not None)


def line_of(parser: argparse.ArgumentParser) -> Line:
    """The model of a parser."""
    actions = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    groups = [group._group_actions for group in parser._mutually_exclusive_groups]
    verbs = [action for action in actions if isinstance(action, argparse._SubParsersAction)]
    return Line(
        tuple(_option(action, groups) for action in actions if action.option_strings),
        tuple(_value(action) for action in actions if not action.option_strings and action not in verbs),
        tuple((name, one.description or "", line_of(one)) for verb in verbs for name, one in verb.choices.items()),
    )


def _option(action: argparse.Action, groups: list[list[argparse.Action]]) -> Option:
    rivals = [flag for group in groups if action in group for other in group for flag in other.option_strings]
    return Option(
        tuple(action.option_strings),
        _short((action.help or "") % vars(action)),
        None if action.nargs == 0 else _value(action),
        isinstance(action, argparse._AppendAction),
        tuple(flag for flag in rivals if flag not in action.option_strings),
    )


def _value(action: argparse.Action) -> Value:
    name = str(action.metavar or action.dest.upper())
    if action.choices:
        return Value(Kind.WORDS, name, tuple(map(str, action.choices)))
    if action.dest == "queue" or name == "QUEUE":
        return Value(Kind.QUEUE, name)
    if action.type is Path:
        return Value(Kind.DIRECTORY if name == "DIR" else Kind.FILE, name)
    return Value(Kind.FREE, name)


def _short(text: str) -> str:
    """The first clause of a help text: a menu has a line for it."""
    return re.split(r" \(|; |: ", text)[0]
