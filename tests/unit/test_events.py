"""The catalogue of events, docs/events.md, says what the source does: no event, level or key more, and none less."""

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CATALOGUE = ROOT / "docs" / "events.md"

_EVENT = re.compile(r"[a-z_]+\.[a-z_]+")
_LEVELS = ("debug", "info", "warning", "error")
#: The name under which a level's method is called where the level depends.
_INDIRECT = "say"
#: Bound to every line of a process; a log call may give them anew.
_EVERYWHERE = {"time", "level", "event", "role", "pid", "host", "slot", "queue", "generation"}


@dataclass(frozen=True)
class Use:
    """One place that logs an event; `level` is None where it depends."""

    event: str
    level: str | None
    keys: frozenset[str]
    place: str


@dataclass(frozen=True)
class Entry:
    """One row of the catalogue."""

    levels: frozenset[str]
    keys: frozenset[str]


def _constants(node: ast.expr, function: ast.AST) -> Iterator[str]:
    """The texts that an argument may be: itself, either side of an `if`, or what its name was given before."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from _constants(node.body, function)
        yield from _constants(node.orelse, function)
    elif isinstance(node, ast.Name):
        for assignment in ast.walk(function):
            targets = assignment.targets if isinstance(assignment, ast.Assign) else []
            if isinstance(assignment, ast.Assign) and any(ast.unparse(target) == node.id for target in targets):
                yield from _constants(assignment.value, function)


def _uses_in(function: ast.AST, place: str) -> Iterator[Use]:
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and node.args:
            method = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
            if method in (*_LEVELS, _INDIRECT):
                keys = frozenset(keyword.arg for keyword in node.keywords if keyword.arg)
                for text in _constants(node.args[0], function):
                    if _EVENT.fullmatch(text):
                        yield Use(text, method if method in _LEVELS else None, keys, f"{place}:{node.lineno}")
        elif isinstance(node, ast.Dict):  # a line that is rendered without the log: log.dropped
            items = {ast.unparse(name): value for name, value in zip(node.keys, node.values, strict=True) if name}
            if "'event'" in items:
                keys = frozenset(ast.literal_eval(name) for name in items)
                for text in filter(_EVENT.fullmatch, _constants(items["'event'"], function)):
                    yield Use(text, None, keys, f"{place}:{node.lineno}")


@functools.cache
def uses(package: Path = ROOT / "workqueued") -> list[Use]:
    """All places of the package that log an event."""
    found: dict[tuple[str, str], Use] = {}
    for file in sorted(package.rglob("*.py")):
        tree = ast.parse(file.read_text())
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        for function in (*functions, tree):
            for use in _uses_in(function, str(file.relative_to(package.parent))):
                found[use.event, use.place] = use
    return list(found.values())


@functools.cache
def catalogue() -> dict[str, Entry]:
    """The rows whose first column is an event."""
    entries: dict[str, Entry] = {}
    for line in CATALOGUE.read_text().splitlines():
        columns = [column.strip() for column in line.split("|")]
        if len(columns) == 6 and _EVENT.fullmatch(columns[1].strip("`")):
            event = columns[1].strip("`")
            assert columns[1] == f"`{event}`"
            assert event not in entries, f"{event} is in the catalogue twice"
            keys = re.findall(r"`([a-z_]+)`", columns[4])
            entries[event] = Entry(frozenset(columns[2].split(", ")), frozenset(keys))
    return entries


def test_the_test_finds_the_events_it_is_to_find() -> None:
    """Direct, either side of an `if`, by a name, and written by hand."""
    found = {use.event for use in uses()}
    assert {"delivery.settled", "worker.died", "monitor.died", "broker.refused", "log.dropped"} <= found
    assert len(found) > 25


def test_the_test_is_not_blind(tmp_path: Path) -> None:
    """A new event in a new module is found, whichever way it is logged."""
    (tmp_path / "new.py").write_text(
        "log.info('a.one', key=1)\n"
        "def f(self):\n"
        "    event = 'b.two' if self else 'c.three'\n"
        "    say(event)\n"
        "    self.task.log.warning('d.four')\n"
        "    notice = {'event': 'e.five', 'lines': 5}\n"
        "    log.info('not an event'); other('f.six'); log.info(f'g.{self}')\n"
    )
    assert {(use.event, use.level) for use in uses(tmp_path)} == {
        ("a.one", "info"),
        ("b.two", None),
        ("c.three", None),
        ("d.four", "warning"),
        ("e.five", None),
    }


def test_every_event_of_the_source_is_in_the_catalogue() -> None:
    """An event that is not documented is one that nobody can alert on."""
    missing = [f"{use.event} ({use.place})" for use in uses() if use.event not in catalogue()]
    assert missing == []


def test_every_event_of_the_catalogue_is_in_the_source() -> None:
    """An alert on an event that never comes is worse than none."""
    assert sorted(catalogue().keys() - {use.event for use in uses()}) == []


def test_the_levels_are_those_of_the_source() -> None:
    """`log.level: warning` must not swallow what the catalogue calls a warning."""
    wrong = []
    for event, entry in catalogue().items():
        logged = {use.level for use in uses() if use.event == event}
        if not entry.levels <= set(_LEVELS) or (None not in logged and logged != entry.levels):
            wrong.append((event, sorted(entry.levels), logged))
    assert wrong == []


def test_the_keys_that_a_line_is_given_are_in_the_catalogue() -> None:
    """As far as they stand in the call; what a dictionary adds is not seen here."""
    entries = catalogue()
    wrong = [
        f"{use.event} has {key} ({use.place})"
        for use in uses()
        for key in sorted(use.keys - _EVERYWHERE - entries[use.event].keys)
    ]
    assert wrong == []


def test_the_keys_of_the_catalogue_are_in_the_source() -> None:
    """Each as a keyword or as a key of a dictionary, somewhere."""
    written: set[str] = set()
    for file in (ROOT / "workqueued").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.keyword) and node.arg:
                written.add(node.arg)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                written.add(node.value)
    absent = {event: sorted(entry.keys - written) for event, entry in catalogue().items() if entry.keys - written}
    assert absent == {}


@pytest.mark.parametrize("event", sorted(catalogue()))
def test_a_row_of_the_catalogue_is_complete(event: str) -> None:
    """Level, when, keys."""
    (row,) = [line for line in CATALOGUE.read_text().splitlines() if line.startswith(f"| `{event}` |")]
    assert all(column.strip() for column in row.strip("|").split("|"))
