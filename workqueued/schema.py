"""Reads a YAML file into frozen dataclasses and lists every mistake with its line.

A configuration is a tree of dataclasses whose fields carry a *reader* (`key(...)`): a function from a YAML node to a
value. Validation libraries stop at the first mistake or lose the line numbers, and the ones that do neither cost more
start-up time than all of `wq-send`; so this walk over PyYAML's node tree is ours (docs/design.md, "What we borrow").
"""

import dataclasses
import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from workqueued.errors import ConfigError

T = TypeVar("T")

#: The userinfo part of a URL: never shown. A password may hold / or @ by mistake, so everything up to the last @ goes;
#: without an @, what stands in the port's place may be one.
_USERINFO = re.compile(r"\A([A-Za-z][\w+.-]*://)?.*@", re.DOTALL)
_NOT_A_PORT = re.compile(r"(//[^/:\[]*:)(?!\d+(?:/|$)).+", re.DOTALL)
#: Sections lie three deep. PyYAML's C composer recurses without a limit, and would end the process by SIGSEGV.
_DEEPEST = 20


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong in a file."""

    line: int
    path: str
    text: str


class Wrong(Exception):  # noqa: N818 - private, always caught by the walk
    """What a reader raises: the value is not what was expected."""

    def __init__(self, expected: str, found: str | None = None) -> None:
        super().__init__(expected)
        self.expected = expected
        self.found = found


@dataclass(slots=True)
class Walk:
    """The state of one reading: where the file lies and what was found wrong so far."""

    file: Path
    mistakes: list[Mistake]

    def report(self, node: yaml.Node, path: str, text: str) -> None:
        """Note a mistake at a node."""
        if "://" in path:  # a URL in the place of a key
            path = redact(path)
        self.mistakes.append(Mistake(node.start_mark.line + 1, path, text))


Reader = Callable[[Walk, yaml.Node, str], Any]
#: What a value may look like, as JSON Schema; its `description` is what is expected, for people. `{SECTION: class}`
#: stands for the shape of a section.
Shape = dict[str, Any]
SECTION = "section"


def shaped(shape: Callable[[], Shape]) -> Callable[[Reader], Reader]:
    """Decorate a reader with the shape of what it reads (for `json_schema`), which is made when somebody asks."""

    def note(read: Reader) -> Reader:
        vars(read)["shape"] = shape
        return read

    return note


def shape_of(read: Reader) -> Shape:
    """The shape of what a reader reads; anything, if it does not tell."""
    tell: Callable[[], Shape] = getattr(read, "shape", dict)
    return tell()


def any_of(*shapes: Shape) -> Shape:
    """A shape that fits what fits one of these; the description is the first one's."""
    alternatives = [one for shape in shapes for one in shape.get("anyOf", [shape])]
    described = {name: shapes[0][name] for name in ("description",) if name in shapes[0]}
    return {**described, "anyOf": [{k: v for k, v in one.items() if k != "description"} for one in alternatives]}


def key(read: Reader, doc: str, *, show: Callable[[Any], Any] | None = None, **default: Any) -> Any:
    """Declare one key of a section.

    Args:
        read: turns the YAML node into the value.
        doc: what it means.
        show: the value as plain data for eyes, where its type alone does not tell (see `plain.as_plain`).
        default: what it is when absent.
    """
    return dataclasses.field(metadata={"read": read, "doc": doc, "show": show}, **default)


def load(file: Path, section: type[T]) -> T:
    """Read a YAML file into a section.

    Raises:
        ConfigError: the file cannot be read or is wrong; the text lists every mistake with file and line.
    """
    try:
        content = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{file}: cannot read it: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    try:
        root = _compose(content)
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}:{_describe_syntax(error, content)}") from error
    walk = Walk(file, [])
    if root is None:
        raise ConfigError(f"{file}: the file is empty; it needs at least one queue:\n{LEAST}")
    value = read_section(section)(walk, root, "")
    if walk.mistakes:
        lines = sorted(walk.mistakes, key=lambda mistake: mistake.line)
        raise ConfigError("\n".join(f"{file}:{m.line}: {m.path + ': ' if m.path else ''}{m.text}" for m in lines))
    return value  # type: ignore[no-any-return]  # without a mistake the walk returns a whole section


#: The least that works, shown where a file has nothing in it.
LEAST = "queues:\n  task_queue:\n    handler: workqueued.samples:dots"

_Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _compose(content: str) -> yaml.Node | None:
    """The root node of a document; None when there is none."""
    depth = 0
    for event in yaml.parse(content, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEEPEST:
            mark: Any = event.start_mark
            raise yaml.MarkedYAMLError(problem="nested too deep", problem_mark=mark)
    return yaml.compose(content, Loader=_Loader)


def read_section(section: type[Any]) -> Reader:
    """A reader for a mapping with the fixed keys of a dataclass."""
    fields = {field.name: field for field in dataclasses.fields(section) if "read" in field.metadata}

    @shaped(lambda: {SECTION: section})
    def read(walk: Walk, node: yaml.Node, path: str) -> Any:
        values: dict[str, Any] = {}
        before = len(walk.mistakes)
        for name, key_node, value_node in pairs(walk, node, path):
            where = f"{path}.{name}" if path else name
            if name not in fields:
                walk.report(key_node, where, "unknown key" + _suggest(name, list(fields)))
                continue
            if fields[name].default is None and value_node.tag.endswith(":null"):
                continue  # as if it were not there
            values[name] = read_value(walk, value_node, where, fields[name].metadata["read"])
        for name, field in fields.items():
            required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            if required and name not in values and isinstance(node, yaml.MappingNode):
                where = f"{path}.{name}" if path else name
                walk.report(node, where, f"missing; {field.metadata['doc']}")
        # What one key means may depend on another: the section itself knows.
        contradictions = getattr(section, "contradictions", None)
        if contradictions is not None and isinstance(node, yaml.MappingNode):
            for name, text in contradictions(values):
                walk.report(node, f"{path}.{name}" if path else name, text)
        return section(**values) if len(walk.mistakes) == before else None

    return read


def mapping_of(section: type[Any], name_rule: Callable[[str], str | None], *, what: str) -> Reader:
    """A reader for a mapping from free names to sections.

    Args:
        section: the dataclass of each value.
        name_rule: returns what is wrong with a name, or None.
        what: what the names are, for the message about an empty mapping.
    """
    read_one = read_section(section)

    @shaped(lambda: {"type": "object", "minProperties": 1, "additionalProperties": {SECTION: section}})
    def read(walk: Walk, node: yaml.Node, path: str) -> Any:
        values = {}
        for name, key_node, value_node in pairs(walk, node, path):
            where = f"{path}.{name}"
            wrong = name_rule(name)
            if wrong:
                walk.report(key_node, where, wrong)
            values[name] = read_value(walk, value_node, where, read_one)
        if isinstance(node, yaml.MappingNode) and not values:
            walk.report(node, path, f"empty; expected at least one {what}")
        return values

    return read


def read_value(walk: Walk, node: yaml.Node, path: str, read: Reader) -> Any:
    """What a reader makes of a node; a mistake is reported, and None stands for the value."""
    try:
        return read(walk, node, path)
    except Wrong as wrong:
        walk.report(node, path, f"found {wrong.found or _describe(node)}, expected {wrong.expected}")
        return None


def pairs(walk: Walk, node: yaml.Node, path: str) -> list[tuple[str, yaml.Node, yaml.Node]]:
    """The entries of a mapping as (name, key node, value node), duplicates reported."""
    if not isinstance(node, yaml.MappingNode):
        walk.report(node, path, f"found {_describe(node)}, expected a mapping (key: value)")
        return []
    entries: list[tuple[str, yaml.Node, yaml.Node]] = []
    lines: dict[str, int] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            walk.report(key_node, path, f"found {_describe(key_node)} as a key, expected a name")
            continue
        name = str(key_node.value)
        if name in lines:
            where = f"{path}.{name}" if path else name
            walk.report(key_node, where, f"the same key again; it is already on line {lines[name]}")
            continue
        lines[name] = key_node.start_mark.line + 1
        entries.append((name, key_node, value_node))
    return entries


def _suggest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known here: {', '.join(known)}"


def _describe(node: yaml.Node) -> str:
    """A node in the words of someone who reads the file: value and kind, never a password."""
    if isinstance(node, yaml.MappingNode):
        return "a mapping"
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    kind = node.tag.rpartition(":")[2]
    if kind == "null":
        return "nothing"
    words = {"str": "text", "int": "a number", "float": "a number", "bool": "a truth value"}
    value = redact(str(node.value))
    shown = value if len(value) <= 60 else value[:57] + "…"
    return f"{shown!r} ({words.get(kind, kind)})"


def redact(text: str) -> str:
    """A URL, or what was meant to be one, without user and password."""
    return _NOT_A_PORT.sub(r"\1***", _USERINFO.sub(r"\1***@", text))


def _describe_syntax(error: yaml.YAMLError, text: str) -> str:
    """A YAML syntax error as `LINE: text`."""
    mark = getattr(error, "problem_mark", None)
    # Without a mark it is a character that YAML does not know; libyaml counts bytes.
    line = (mark.line if mark else text.encode()[: getattr(error, "position", 0)].count(b"\n")) + 1
    rows = text.splitlines()
    row = rows[line - 1] if line <= len(rows) else ""
    if "\t" in row[: len(row) - len(row.lstrip())]:
        return f"{line}: a tab cannot indent YAML; use spaces"
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or error
    return f"{line}: not valid YAML: {problem}"
