"""Readers: from one node of a YAML file to one value, or to what was expected there.

A reader raises `Wrong` with what it expected; the walk (`schema`) adds what was found and where.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from workqueued.durations import DURATION, parse_duration
from workqueued.schema import Reader, Shape, Walk, Wrong, any_of, pairs, read_value, shape_of, shaped

T = TypeVar("T")

_SIZE_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = re.compile(r"(\d{1,15})([KMGT]?)")
#: YAML 1.1's truth values.
_TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_VARIABLE = re.compile(r"\$(\$?)\{([A-Za-z_][A-Za-z0-9_]*)\}")

def _scalar(node: yaml.Node, tags: tuple[str, ...], expected: str) -> str:
    if not isinstance(node, yaml.ScalarNode) or node.tag.rpartition(":")[2] not in tags:
        raise Wrong(expected)
    return str(node.value)


def text(expected: str = "text") -> Reader:
    """A reader for text in which `${NAME}` stands for an environment variable (`$${NAME}` for itself)."""

    @shaped(lambda: {"type": "string", "minLength": 1, "description": expected})
    def read(_walk: Walk, node: yaml.Node, _path: str) -> str:
        value = _scalar(node, ("str",), expected)

        def expand(match: re.Match[str]) -> str:
            escaped, name = match.groups()
            if escaped:
                return match.group(0)[1:]
            if name not in os.environ:
                raise Wrong(f"the environment variable {name} to be set")
            return os.environ[name]

        value = _VARIABLE.sub(expand, value)
        if not value:
            raise Wrong(expected)
        return value

    return read


def escaped(value: str) -> str:
    """What the reader of text takes for this value: `${NAME}` in it stands for itself."""
    return _VARIABLE.sub(r"$\g<0>", value)


def parsed(parse: Callable[[str], T], expected: str, pattern: str | None = None) -> Reader:
    """A reader for text that `parse` turns into a value.

    Args:
        parse: a ValueError of it is a mistake, and its text is shown: it must not quote what may be a password.
        expected: what is, for people.
        pattern: a regular expression for editors, which need not tell all.
    """
    read_text = text(expected)

    @shaped(
        lambda: shape_of(read_text) | ({"pattern": rf"{pattern}|\$\{{"} if pattern else {})  # or a variable in it
    )
    def read(walk: Walk, node: yaml.Node, path: str) -> T:
        try:
            return parse(read_text(walk, node, path))
        except ValueError as error:
            raise Wrong(f"{expected} ({error})") from error

    return read


def path_beside_file(expected: str) -> Reader:
    """A reader for a path; a relative one is meant from the folder of the YAML file."""
    read_text = text(expected)

    @shaped(lambda: shape_of(read_text))
    def read(walk: Walk, node: yaml.Node, path: str) -> Path:
        relative: str = read_text(walk, node, path)
        try:
            return (walk.file.absolute().parent / relative).resolve()
        except (ValueError, RuntimeError, OSError) as error:  # a NUL in it; symbolic links in a circle
            raise Wrong(expected) from error

    return read


def integer(minimum: int, maximum: int, note: str = "") -> Reader:
    """A reader for a whole number in a range."""
    expected = f"a whole number from {minimum} to {maximum}{note}"

    @shaped(lambda: {"type": "integer", "minimum": minimum, "maximum": maximum, "description": expected})
    def read(_walk: Walk, node: yaml.Node, _path: str) -> int:
        digits = _scalar(node, ("int",), expected)
        # A leading zero is octal to YAML 1.1 and decimal to its readers; int() refuses more than 4300 digits.
        if not re.fullmatch(r"[+-]?(0|[1-9]\d{0,8})", digits) or not minimum <= int(digits) <= maximum:
            raise Wrong(expected)
        return int(digits)

    return read


def or_none(read_one: Reader) -> Reader:
    """A reader for what another one reads, or the word `none`, which is None."""

    @shaped(lambda: any_of(shape_of(read_one), {"const": "none"}))
    def read(walk: Walk, node: yaml.Node, path: str) -> Any:
        if isinstance(node, yaml.ScalarNode) and node.value == "none":
            return None
        try:
            return read_one(walk, node, path)
        except Wrong as wrong:
            raise Wrong(f"{wrong.expected}; or none", wrong.found) from wrong

    return read


def number(minimum: float, maximum: float) -> Reader:
    """A reader for a number in a range, with or without decimals."""
    expected = f"a number from {minimum:g} to {maximum:g}"

    @shaped(lambda: {"type": "number", "minimum": minimum, "maximum": maximum, "description": expected})
    def read(_walk: Walk, node: yaml.Node, _path: str) -> float:
        digits = _scalar(node, ("int", "float"), expected)
        # The exponent is Python's, of a small number: what --print-config prints is readable.
        if not re.fullmatch(r"\d{1,9}(\.\d{1,9})?(e-\d\d)?", digits) or not minimum <= float(digits) <= maximum:
            raise Wrong(expected)
        return float(digits)

    return read


def duration(minimum: str, maximum: str, word: str = "", meaning: float | None = None) -> Reader:
    """A reader for a duration such as `500ms`, `10s`, `5m`, `2h`, `1d`; the value is in seconds.

    Args:
        minimum: the shortest.
        maximum: the longest.
        word: what may stand instead of a duration, such as `none`.
        meaning: the value of that word.
    """
    expected = f"a duration from {minimum} to {maximum}, such as 500ms, 10s, 5m or 2h{f'; or {word}' if word else ''}"
    low, high = parse_duration(minimum), parse_duration(maximum)

    @shaped(lambda: _shape_of_duration(word) | {"description": expected})
    def read(_walk: Walk, node: yaml.Node, _path: str) -> float | None:
        text = _scalar(node, ("str", "int") if word else ("str",), expected)
        if word and text == word:
            return meaning
        try:
            seconds = parse_duration(text)
        except ValueError as error:
            raise Wrong(expected) from error
        if not low <= seconds <= high:
            raise Wrong(expected)
        return seconds

    return read


def _shape_of_duration(word: str) -> Shape:
    one = {"type": "string", "pattern": f"^{DURATION.pattern}$"}
    if not word:
        return one
    # A word of digits is a number to YAML, unless it is quoted.
    return any_of(one, {"enum": [int(word), word]} if word.isdecimal() else {"const": word})


def _shape_of_size(low: int, high: int) -> Shape:
    return any_of(
        {"type": "string", "pattern": f"^{_SIZE.pattern}$"}, {"type": "integer", "minimum": low, "maximum": high}
    )


def size(minimum: str, maximum: str) -> Reader:
    """A reader for a size such as `512K`, `100M`, `2G`; the value is in bytes."""
    expected = f"a size from {minimum} to {maximum}, such as 512K, 100M or 2G"
    low, high = parse_size(minimum), parse_size(maximum)

    @shaped(lambda: _shape_of_size(low, high) | {"description": expected})
    def read(_walk: Walk, node: yaml.Node, _path: str) -> int:
        try:
            found = parse_size(_scalar(node, ("str", "int"), expected))
        except ValueError as error:
            raise Wrong(expected) from error
        if not low <= found <= high:
            raise Wrong(expected)
        return found

    return read


def parse_size(text: str) -> int:
    """Bytes of a size such as `512K`, `100M`, `2G` (powers of 1024).

    Raises:
        ValueError: it is no size.
    """
    match = _SIZE.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is no size such as 512K, 100M or 2G")
    return int(match[1]) * _SIZE_UNITS[match[2]]


def boolean() -> Reader:
    """A reader for true or false."""

    @shaped(lambda: {"type": "boolean"})
    def read(_walk: Walk, node: yaml.Node, _path: str) -> bool:
        value = _scalar(node, ("bool",), "true or false").lower()
        if value not in _TRUTH:  # what the file itself tagged as !!bool
            raise Wrong("true or false")
        return _TRUTH[value]

    return read


def choice(*names: str) -> Reader:
    """A reader for one of a few words; `false` may be written as YAML's truth value."""
    expected = " or ".join(names)

    @shaped(lambda: {"enum": [False if name == "false" else name for name in names]})
    def read(_walk: Walk, node: yaml.Node, _path: str) -> str:
        value = _scalar(node, ("str", "bool"), expected)
        if value.lower() not in names:
            raise Wrong(expected)
        return value.lower()

    return read


def show_size(size: int | None) -> str | None:
    """A size as `parse_size` reads it."""
    if size is None:
        return None
    unit = next(unit for unit in reversed(_SIZE_UNITS) if size % _SIZE_UNITS[unit] == 0)
    return f"{size // _SIZE_UNITS[unit]}{unit}"


def texts(expected: str) -> Reader:
    """A reader for a list of texts; a number in it is meant as it is written. The result is a tuple."""
    read_text = text("text")

    def read_one(walk: Walk, node: yaml.Node, path: str) -> str:
        if isinstance(node, yaml.ScalarNode) and (node.tag.endswith((":int", ":float")) or node.value == ""):
            return str(node.value)
        return read_text(walk, node, path)  # type: ignore[no-any-return]

    @shaped(
        lambda: {"type": "array", "minItems": 1, "items": {"type": ["string", "number"]}, "description": expected}
    )
    def read(walk: Walk, node: yaml.Node, path: str) -> tuple[str, ...]:
        if not isinstance(node, yaml.SequenceNode) or not node.value:
            raise Wrong(expected)
        return tuple(read_value(walk, one, f"{path}[{i}]", read_one) for i, one in enumerate(node.value))

    return read


def argv(expected: str) -> Reader:
    """A reader for a program and its arguments; its path, if relative, is meant from the folder of the YAML file."""
    read_texts = texts(expected)

    @shaped(lambda: shape_of(read_texts))
    def read(walk: Walk, node: yaml.Node, path: str) -> tuple[str, ...]:
        program, *arguments = read_texts(walk, node, path)
        if program and "/" in program:
            program = str(walk.file.absolute().parent / program)
        return (program, *arguments)

    return read


def named(read_one: Reader, name_rule: Callable[[str], str | None]) -> Reader:
    """A reader for a mapping from free names to values; `name_rule` returns what is wrong with a name, or None."""

    @shaped(lambda: {"type": "object", "additionalProperties": shape_of(read_one)})
    def read(walk: Walk, node: yaml.Node, path: str) -> dict[str, Any]:
        values = {}
        for name, key_node, value_node in pairs(walk, node, path):
            wrong = name_rule(name)
            if wrong:
                walk.report(key_node, f"{path}.{name}", wrong)
            values[name] = read_value(walk, value_node, f"{path}.{name}", read_one)
        return values

    return read


def one_or_named(read_one: Reader, name_rule: Callable[[str], str | None], expected: str) -> Reader:
    """A reader for one value, or a mapping from names to values, which must not be empty."""
    read_named = named(read_one, name_rule)

    @shaped(lambda: any_of(shape_of(read_one), shape_of(read_named) | {"minProperties": 1}) | {"description": expected})
    def read(walk: Walk, node: yaml.Node, path: str) -> Any:
        if not isinstance(node, yaml.MappingNode):
            return read_one(walk, node, path)
        if not node.value:
            raise Wrong(expected, "an empty mapping")
        return read_named(walk, node, path)

    return read


def _one_or_list(one: Shape, least: int) -> Shape:
    return any_of(one, {"type": "array", "minItems": least, "items": one})


def one_or_more(read_one: Reader, expected: str, least: int = 1) -> Reader:
    """A reader for one value or a list of at least so many of them; the result is a tuple."""

    @shaped(lambda: _one_or_list(shape_of(read_one), least) | {"description": expected})
    def read(walk: Walk, node: yaml.Node, path: str) -> tuple[Any, ...]:
        nodes = node.value if isinstance(node, yaml.SequenceNode) else [node]
        if len(nodes) < least:
            raise Wrong(expected, "an empty list")
        return tuple(read_value(walk, one, f"{path}[{i}]" if len(nodes) > 1 else path, read_one)
                     for i, one in enumerate(nodes))

    return read
