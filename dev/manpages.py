"""Manual pages: what the code knows (options, keys, exit codes) set into what people wrote (dev/man).

Runs in: `make manual`.
"""

import argparse
import dataclasses
import importlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dev import roff
from workqueued.config import Config
from workqueued.plain import as_plain
from workqueued.schema import SECTION, Shape, shape_of

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "dev/man"
#: The commands, and the modules that have their parsers.
COMMANDS = {
    "workqueued": "daemon",
    "wq-send": "send",
    "wq-status": "status",
    "wq-dead": "dead",
    "wq-broker": "broker",
}
#: Options that nobody looks for.
_LAST = (argparse._HelpAction, argparse._VersionAction)
#: Groups that every parser has.
_UNTITLED = ("positional arguments", "options")
_VOLUMES = {"1": "User Commands", "5": "File Formats", "8": "System Administration"}


def parser_of(command: str) -> argparse.ArgumentParser:
    """The command line of a command."""
    module = importlib.import_module(f"workqueued.cli.{COMMANDS[command]}")
    parser: argparse.ArgumentParser = module.make_parser()
    return parser


def pages() -> Iterator[tuple[str, str]]:
    """All manual pages as (file name, text)."""
    for source in sorted(SOURCES.glob("*.md")):
        name, section = source.stem.rsplit(".", 1)
        yield source.stem, roff.page(source.read_text(encoding="utf-8"), _Facts(name).fill, _VOLUMES[section])


class _Facts:
    """What the placeholders of one page stand for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def fill(self, word: str, argument: str) -> Iterable[str]:
        """The lines of one placeholder."""
        known = {
            "options": lambda: options(parser_of(self._name)),
            "verbs": lambda: verbs(parser_of(self._name)),
            "exit-status": lambda: exit_status(argument or self._name),
            "keys": lambda: keys(Config, "", argument),
        }
        return known[word]()


# --- options ---------------------------------------------------------------------------------------------------------


def options(parser: argparse.ArgumentParser, without: Iterable[str] = ()) -> Iterator[str]:
    """The options of a parser; those that several share, such as --config, may be left out."""
    known = set(without)
    for group in parser._action_groups:
        actions = [one for one in group._group_actions if _is_told(one) and known.isdisjoint(_names(one))]
        actions.sort(key=lambda action: isinstance(action, _LAST))
        if actions and group.title and group.title not in _UNTITLED:
            yield f".SS {roff.escape(group.title[0].upper() + group.title[1:])}"
        for action in actions:
            yield from _told(action)


def _told(action: argparse.Action) -> list[str]:
    return roff.definition(_term(action), roff.flow(roff.escape(_help(action))))


def _is_told(action: argparse.Action) -> bool:
    return action.help != argparse.SUPPRESS and not isinstance(action, argparse._SubParsersAction)


def _names(action: argparse.Action) -> Iterable[str]:
    return action.option_strings or [action.dest]


def _term(action: argparse.Action) -> str:
    value = roff.italic(_metavar(action)) if action.nargs != 0 else ""
    if not action.option_strings:
        return value
    return ", ".join(map(roff.bold, action.option_strings)) + (f" {value}" if value else "")


def _metavar(action: argparse.Action) -> str:
    if action.choices and action.metavar is None:
        return "|".join(map(str, action.choices))
    return str(action.metavar or action.dest.upper())


def _help(action: argparse.Action) -> str:
    return roff.sentence((action.help or "") % vars(action))


def verbs(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The verbs of a parser, each with its own options; then those that several have, which tell which messages."""
    (subparsers,) = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    everywhere = set.intersection(*({*_flags(verb._actions)} for verb in subparsers.choices.values()))
    filters: list[argparse.Action] = []
    for name, verb in subparsers.choices.items():
        titled = [group._group_actions for group in verb._action_groups if group.title not in _UNTITLED]
        filters = titled[0] if titled else filters
        left_out = everywhere | {*_flags(action for actions in titled for action in actions)}
        yield f".SS {' '.join((roff.escape(name), *_synopsis(verb, left_out, filtered=bool(titled))))}"
        yield from roff.flow(roff.escape(verb.description or ""))
        yield from options(verb, left_out)
    yield ".SS FILTER"
    yield "All of these together; an option that may be repeated means any of its values."
    for action in filters:
        yield from _told(action)


def _flags(actions: Iterable[argparse.Action]) -> Iterator[str]:
    return (name for action in actions for name in _names(action))


def _synopsis(verb: argparse.ArgumentParser, left_out: set[str], *, filtered: bool) -> Iterator[str]:
    if filtered:
        yield f"[{roff.italic('FILTER')}]..."
    for action in verb._actions:
        if not action.option_strings and not left_out & set(_names(action)):
            yield roff.italic(_metavar(action)) if action.nargs is None else f"[{roff.italic(_metavar(action))}]..."


# --- exit codes ------------------------------------------------------------------------------------------------------


def exit_status(column: str) -> Iterator[str]:
    """The exit codes of a command, from the table in docs/signals.md that has it as a column."""
    for header, rows in roff.tables((ROOT / "docs/signals.md").read_text(encoding="utf-8")):
        if header[0] == "code" and column in header:
            for row in rows:
                meaning = row[header.index(column)]
                if meaning:
                    yield from roff.definition(f"\\fB{row[0]}\\fR", roff.flow(roff.sentence(meaning)))
            return
    raise ValueError(f"docs/signals.md has no exit codes of {column}")


# --- keys ------------------------------------------------------------------------------------------------------------


def keys(section: type[Any], prefix: str, top: str) -> Iterator[str]:
    """The keys of a section and of those inside it: default, the words of docs/configuration.md, what is expected."""
    meanings = _meanings()
    fields = [field for field in dataclasses.fields(section) if "read" in field.metadata]
    inner = [(field, _section_of(field)) for field in fields]
    leaves = [field for field, nested in inner if nested is None]
    if leaves:
        yield f".SS {roff.escape(prefix.rstrip('.') or top)}"
    for field in leaves:
        meaning = meanings.get(prefix + field.name) or roff.escape(roff.sentence(field.metadata["doc"]))
        told = f"{roff.bold(field.name)}: {roff.escape(_default(field))}".rstrip()
        yield from roff.definition(told, roff.flow(f"{roff.sentence(meaning)} {roff.escape(_expected(field))}".strip()))
    for field, nested in inner:
        if nested is not None:
            name = f"{field.name}.<name>" if _is_mapping(field) else field.name
            yield from keys(nested, f"{prefix}{name}.", top)


def _meanings() -> dict[str, str]:
    (table,) = [
        rows
        for header, rows in roff.tables((ROOT / "docs/configuration.md").read_text(encoding="utf-8"))
        if header == ["key", "default", "meaning"]
    ]
    return {_plain(key): meaning[:1].upper() + meaning[1:] for key, _, meaning in table}


def _plain(cell: str) -> str:
    return cell.replace("\\fB", "").replace("\\fR", "").replace("\\-", "-")


def _section_of(field: "dataclasses.Field[Any]") -> type[Any] | None:
    shape = shape_of(field.metadata["read"])
    if _is_mapping(field):
        shape = shape["additionalProperties"]
    return shape.get(SECTION)


def _is_mapping(field: "dataclasses.Field[Any]") -> bool:
    each = shape_of(field.metadata["read"]).get("additionalProperties")
    return isinstance(each, dict) and SECTION in each


def _default(field: "dataclasses.Field[Any]") -> str:
    if field.default is dataclasses.MISSING:
        return ""
    plain = (field.metadata["show"] or as_plain)(field.default)
    if plain in (None, []):
        return ""
    if isinstance(plain, list):
        plain = plain[0].replace("***", "guest")
    return str(plain).lower() if isinstance(plain, bool) else str(plain)


def _expected(field: "dataclasses.Field[Any]") -> str:
    """What may be said, where it is not simply text."""
    shape: Shape = shape_of(field.metadata["read"])
    if "enum" in shape:
        return roff.sentence(f"one of {', '.join(str(one).lower() for one in shape['enum'])}")
    if shape.get("type") == "boolean":
        return "True or false."
    said = shape.get("description", "")
    if not said.startswith(("a duration", "a size", "a whole number", "a number")):
        return ""
    return roff.sentence(re.sub(r", such as [^;]*", "", said))  # the page has told what durations and sizes are
