"""Manual pages: what the code knows (options, keys, exit codes) set into what people wrote (dev/man).

Runs in: `make manual`.
"""

import argparse
import dataclasses
import importlib
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
_LAST = (argparse._HelpAction, argparse._VersionAction)  # noqa: SLF001
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
    for group in parser._action_groups:  # noqa: SLF001 - argparse has no other way to ask
        actions = [action for action in group._group_actions if _is_told(action) and known.isdisjoint(_names(action))]  # noqa: SLF001
        actions.sort(key=lambda action: isinstance(action, _LAST))
        if actions and group.title not in ("positional arguments", "options"):
            yield f".SS {roff.escape(roff.sentence(group.title or '').rstrip('.'))}"
        for action in actions:
            yield from roff.definition(_term(action), roff.flow(roff.escape(_help(action))))


def _is_told(action: argparse.Action) -> bool:
    return action.help != argparse.SUPPRESS and not isinstance(action, argparse._SubParsersAction)  # noqa: SLF001


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
    """The verbs of a parser, each with the options that it does not share with all others."""
    (subparsers,) = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]  # noqa: SLF001
    everywhere = set.intersection(*({n for a in one._actions for n in _names(a)} for one in subparsers.choices.values()))  # noqa: SLF001
    filters: list[str] = []
    for name, verb in subparsers.choices.items():
        group = [g for g in verb._action_groups if g.title and g.title.startswith("which")]  # noqa: SLF001
        shared = {n for g in group for a in g._group_actions for n in _names(a)}  # noqa: SLF001
        words = " ".join(_synopsis(verb, everywhere | shared, filtered=bool(group)))
        yield f".SS {roff.escape(name)}{' ' + words if words else ''}"
        yield from roff.flow(roff.escape(verb.description or ""))
        yield from options(verb, everywhere | shared)
        filters = filters or [line for g in group for line in _group(g)]
    yield ".SS Which messages"
    yield "All of these together; an option that may be repeated means any of its values."
    yield from filters


def _synopsis(verb: argparse.ArgumentParser, left_out: set[str], *, filtered: bool) -> Iterator[str]:
    if filtered:
        yield f"[{roff.italic('FILTER')}]..."
    for action in verb._actions:  # noqa: SLF001
        if not action.option_strings and not left_out & set(_names(action)):
            yield roff.italic(_metavar(action)) if action.nargs is None else f"[{roff.italic(_metavar(action))}]..."


def _group(group: "argparse._ArgumentGroup") -> Iterator[str]:
    for action in group._group_actions:  # noqa: SLF001
        yield from roff.definition(_term(action), roff.flow(roff.escape(_help(action))))


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
    """The keys of a section and of those inside it: name, default, what is expected, and the words of docs/configuration.md."""
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
    counted = ("a duration", "a size", "a whole number", "a number")
    return roff.sentence(said.partition(", such as")[0] + ("; or" + said.rpartition("; or")[2]) * ("; or" in said)) if said.startswith(counted) else ""
