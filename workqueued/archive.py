"""A message as a line of NDJSON, and back, without loss.

Runs in: `wq-dead export`, `import` and `show`.

JSON has fewer types than an AMQP table, so the others are written as an object with one key: {"$bytes": base64},
{"$timestamp": seconds since the epoch}, {"$decimal": text}; {"$object": …} stands around an object of the sender's that
looks like one of these.
"""

import base64
import datetime as dt
import decimal
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from workqueued.delivery import Properties
from workqueued.errors import DataError

#: What the broker notes on a delivery; a stale one would be believed by RabbitMQ 4.
_NOTES = ("x-delivery-count", "x-acquired-count")
#: These would send copies to other queues when the message is published again.
_ROUTING = ("CC", "BCC")

_BYTES, _TIMESTAMP, _DECIMAL, _OBJECT = "$bytes", "$timestamp", "$decimal", "$object"
_TAGS = (_BYTES, _TIMESTAMP, _DECIMAL, _OBJECT)
_NUMBERS = {"priority": 256, "timestamp": 2**64}
#: The longest expiration that RabbitMQ 3.10 takes, ms: ten years of 365 days.
_LONGEST_EXPIRATION = 10 * 365 * 86_400_000
#: How much of a wrong value an error shows.
_SHOWN = 60


def to_line(properties: Properties, body: bytes) -> str:
    """The line of a message, without its newline."""
    return json.dumps(to_object(properties, body), separators=(",", ":"))


def to_object(properties: Properties, body: bytes) -> dict[str, Any]:
    """The same as an object: the properties that are set, the headers, the body."""
    line: dict[str, Any] = {
        name: value
        for name in Properties._fields
        if name != "headers" and (value := getattr(properties, name)) is not None
    }
    headers = {name: value for name, value in properties.headers.items() if name not in _NOTES}
    line["headers"] = {str(name): to_json(value) for name, value in headers.items()}
    line["body"] = _text_or_bytes(body)
    return line


def from_line(line: bytes) -> tuple[Properties, bytes]:
    """The message of a line.

    Raises:
        DataError: it is none.
    """
    try:
        given = json.loads(line, parse_constant=_no_constant, parse_float=_finite)
        return _from_object(given)
    except RecursionError as error:
        raise DataError("nested too deeply") from error
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 ({error.reason})") from error
    except ValueError as error:  # also of int(), which refuses more than 4300 digits
        raise DataError(f"not valid JSON ({error})") from error


def _from_object(given: Any) -> tuple[Properties, bytes]:
    if not isinstance(given, dict) or "body" not in given:
        raise DataError('expected an object with a "body", as wq-dead export writes it')
    body = from_json(given.pop("body"))
    if isinstance(body, str):
        body = _utf_8(body)
    if not isinstance(body, bytes):
        raise DataError('body: expected text, or {"$bytes": …} with base64')
    headers = given.pop("headers", {})
    if not isinstance(headers, dict):
        raise DataError(f"headers: found {_shown(headers)}, expected an object")
    for name, value in given.items():
        _check(name, value)
    kept = {name: from_json(value) for name, value in headers.items() if name not in _NOTES + _ROUTING}
    return Properties(**given, headers=kept), body


def _check(name: str, value: Any) -> None:
    if name not in Properties._fields:
        raise DataError(f"unknown key {name!r}; known: {', '.join(Properties._fields)}, body")
    if name in _NUMBERS:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _NUMBERS[name]:
            raise DataError(f"{name}: found {_shown(value)}, expected a whole number from 0 to {_NUMBERS[name] - 1}")
    elif not isinstance(value, str):
        raise DataError(f"{name}: found {_shown(value)}, expected text")
    elif name == "expiration" and not (re.fullmatch("[0-9]{1,255}", value) and int(value) <= _LONGEST_EXPIRATION):
        # The broker would close the channel, and with it everything that is on its way.
        raise DataError(f"{name}: found {_shown(value)}, expected milliseconds as text, at most ten years")


def to_json(value: Any) -> Any:
    """A header's value in JSON's types."""
    if isinstance(value, bytes | bytearray):
        return {_BYTES: base64.b64encode(value).decode()}
    if isinstance(value, dt.datetime):
        return {_TIMESTAMP: int(value.timestamp())}
    if isinstance(value, decimal.Decimal):
        return {_DECIMAL: str(value)}
    if isinstance(value, Mapping):
        table = {str(name): to_json(item) for name, item in value.items()}
        return {_OBJECT: table} if _looks_tagged(table) else table
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None  # the broker closes the connection of whoever sends one
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return str(value)


def from_json(value: Any) -> Any:
    """A header's value from what `to_json` made of it.

    Raises:
        DataError: a tag around what it cannot stand around.
    """
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if not isinstance(value, dict):
        return value
    if not _looks_tagged(value):
        return {name: from_json(item) for name, item in value.items()}
    ((tag, inner),) = value.items()
    try:
        return _untagged(tag, inner)
    except (ValueError, TypeError, OverflowError, OSError, decimal.DecimalException) as error:
        raise DataError(f"{tag}: found {_shown(inner)}: {error}") from error


def _untagged(tag: str, inner: Any) -> Any:
    if tag == _BYTES:
        return base64.b64decode(inner, validate=True)
    if tag == _TIMESTAMP:
        return dt.datetime.fromtimestamp(inner, dt.UTC)
    if tag == _DECIMAL:
        number = decimal.Decimal(inner)
        if not number.is_finite():
            raise ValueError("expected a number")
        return number
    if not isinstance(inner, dict):
        raise TypeError("expected an object")
    return {name: from_json(item) for name, item in inner.items()}


def _looks_tagged(table: Mapping[str, Any]) -> bool:
    return len(table) == 1 and next(iter(table)) in _TAGS


def _text_or_bytes(body: bytes) -> Any:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return to_json(body)


def _utf_8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise DataError("body: half of a surrogate pair, which UTF-8 cannot hold") from error


def _shown(value: Any) -> str:
    return json.dumps(value)[:_SHOWN]


def _no_constant(word: str) -> Any:
    raise DataError(f"not valid JSON ({word})")


def _finite(digits: str) -> float:
    """A number of JSON; 1e999 is one, and infinite to Python."""
    number = float(digits)
    if not math.isfinite(number):
        raise DataError(f"{digits[:_SHOWN]} is too large a number")
    return number
