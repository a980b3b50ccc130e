"""Bulk: a message for every line, many on their way at once.

Runs in: `wq-send --lines` and `wq-send --ndjson`.

A thread reads the input, so that a slow producer does not keep confirms and heartbeats waiting. Whatever ends a bulk,
the error says up to which line everything is safe, and that is where `--skip` resumes.
"""

import contextlib
import json
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from workqueued.amqp.publisher import MOST_BYTES
from workqueued.amqp.refusals import TooLargeError
from workqueued.delivery import Message
from workqueued.errors import DataError, UsageError, WorkqueuedError
from workqueued.sender import Sender, expiration
from workqueued.stream import Stream

_CHUNK = 1 << 16
#: Batches of lines that are read ahead.
_AHEAD = 16
#: How much of a line an error message shows.
_SHOWN = 60
#: Keys of an NDJSON object, the type of each, and the words for it.
_KEYS: Mapping[str, tuple[Any, str]] = {
    "body": (object, "text or any JSON value"),
    "queue": (str, "a name"),
    "headers": (dict, "an object"),
    "type": (str, "text"),
    "message_id": (str, "text"),
    "content_type": (str, "text"),
    "correlation_id": (str, "text"),
    "reply_to": (str, "text"),
    "priority": (int, "a whole number from 0 to 255"),
    "expires": (str, 'a duration in quotes, such as "10m"'),
    "delay": (str, 'a duration in quotes, such as "10m"'),
    "at": (str, 'a time in quotes, such as "2026-12-24T18:00:00+01:00"'),
}

#: Makes the message of a line, or raises DataError; None: the line has none.
Make = Callable[[bytes], Message | None]
#: Hears of messages that are safe.
Report = Callable[[list[Message]], None]


class InterruptedBulkError(WorkqueuedError):
    """Ctrl-C."""

    exit_code = 130


class Lines(threading.Thread):
    """Reads lines from a file descriptor, which it closes at the end.

    Attributes:
        batches: lines that were read and not taken.
        ended: there will be no more.
        error: why, if it was not the end of the input.
    """

    def __init__(self, descriptor: int, wake: Callable[[], None]) -> None:
        super().__init__(name="lines", daemon=True)
        self._descriptor = descriptor
        self._wake = wake
        self._room = threading.Semaphore(_AHEAD)
        self.batches: deque[list[bytes]] = deque()
        self.ended = False
        self.error: WorkqueuedError | None = None

    def run(self) -> None:
        """Read to the end."""
        try:
            self._read()
        except OSError as error:
            self.error = UsageError(f"cannot read the input: {error.strerror}")
        except DataError as error:
            self.error = error
        finally:
            self.ended = True
            os.close(self._descriptor)
            self._wake()

    def _read(self) -> None:
        start: list[bytes] = []  # of a line that has not ended yet
        size = 0
        while chunk := os.read(self._descriptor, _CHUNK):
            *lines, tail = chunk.split(b"\n")
            if lines:
                lines[0] = b"".join([*start, lines[0]])
                self._hand_over(lines)
                start, size = [], 0
            start.append(tail)
            size += len(tail)
            if size > MOST_BYTES:
                raise DataError(f"a line has more than {MOST_BYTES} bytes, which is more than any broker takes")
        if size:
            self._hand_over([b"".join(start)])

    def _hand_over(self, lines: list[bytes]) -> None:
        self._room.acquire()
        self.batches.append(lines)
        self._wake()

    def take(self) -> list[bytes]:
        """The next lines; empty when there are none at the moment."""
        if not self.batches:
            return []
        self._room.release()
        return self.batches.popleft()

    @property
    def finished(self) -> bool:
        """Whether everything was taken."""
        return self.ended and not self.batches


class Bulk:
    """One run: lines in, confirms out.

    Attributes:
        safe: every line up to this one is with the broker (or was skipped).
    """

    def __init__(self, sender: Sender, make: Make, report: Report, skip: int = 0) -> None:
        self._publisher = sender.publisher
        self._stream = Stream(sender)
        self._make = make
        self._report = report
        self._skip = skip
        self._number = 0
        self._on_their_way: deque[tuple[int, Message]] = deque()
        self.safe = skip

    def run(self, descriptor: int) -> None:
        """Send every line of the input.

        Raises:
            WorkqueuedError: the text says where to resume.
        """
        lines = Lines(descriptor, self._publisher.wake)
        lines.start()
        try:
            broken = self._send(lines)
            while self._stream.in_flight:
                self._stream.turn()
                self._tell()
            if broken is not None:
                self.safe = max(self.safe, self._number - 1)
                raise broken
            if lines.error is not None:
                self.safe = max(self.safe, self._number)
                raise lines.error
        except WorkqueuedError as error:
            with contextlib.suppress(WorkqueuedError):
                self._tell()  # what was confirmed before it broke
            raise type(error)(f"{self._name_the_line(error)}\nwq-send: {self._where_to_resume()}") from error
        except KeyboardInterrupt as error:
            raise InterruptedBulkError(f"interrupted\nwq-send: {self._where_to_resume()}") from error

    def _send(self, lines: Lines) -> WorkqueuedError | None:
        """Publish until the input ends; returns what is wrong with the last line read, if it cannot be a message."""
        while not lines.finished:
            for line in lines.take():
                self._number += 1
                if self._number <= self._skip:
                    continue
                try:
                    self._send_one(line)
                except DataError as error:
                    # Of this one line, as long as the channel lives: what came before it is waited for.
                    if not self._publisher.is_open and self._publisher.in_flight:
                        raise
                    shown = line[:_SHOWN].decode("utf-8", "backslashreplace") + ("…" if len(line) > _SHOWN else "")
                    return DataError(f"line {self._number}: {error}: {shown}")
                self._tell()
            if not lines.batches and not lines.ended:
                self._wait(lines)
        return None

    def _send_one(self, line: bytes) -> None:
        message = self._make(line)
        if message is None:
            return
        self._stream.put(message)
        self._on_their_way.append((self._number, message))
        while self._stream.full:
            self._stream.turn()

    def _wait(self, lines: Lines) -> None:
        """Until there are lines, or confirms."""
        if self._publisher.is_open:
            self._stream.turn(until=lambda: bool(lines.batches) or lines.ended)
            self._tell()
        else:
            lines.join(0.02)  # not connected yet: nothing that `wake` could end

    def _tell(self) -> None:
        safe = []
        try:
            for message in self._stream.take():
                self.safe, _ = self._on_their_way.popleft()
                safe.append(message)
        finally:
            if safe:
                self._report(safe)

    def _name_the_line(self, error: WorkqueuedError) -> str:
        if isinstance(error, TooLargeError):
            for number, message in self._on_their_way:
                if message is error.message:
                    return f"line {number}: {error}"
            return f"line {self._number}: {error}"
        return str(error)

    def _where_to_resume(self) -> str:
        if self.safe == 0:
            return "no line is confirmed; start again from the first"
        before = f"lines 1 to {self.safe} are" if self.safe > 1 else "line 1 is"
        return f"{before} safe; the first that is not confirmed is line {self.safe + 1}. Resume with --skip {self.safe}"


def message_of_json(sender: Sender, line: bytes, properties: Mapping[str, Any]) -> Message | None:
    """The message of an NDJSON line, its own properties over the given ones; None for a blank line.

    Raises:
        DataError: it is no such line.
    """
    if not line.strip():
        return None
    try:
        given = _parse(line)
        body = given.pop("body")
        headers = {**properties["headers"], **given.pop("headers", {})}
        when = ("delay", "at")
        if any(key in given for key in when):
            properties = {key: value for key, value in properties.items() if key not in when}
        if "expires" in given:
            given["expiration"] = expiration(given.pop("expires"))
        if not isinstance(body, str):
            body = json.dumps(body, allow_nan=False)  # 1e999 is JSON, and infinite to Python
            if not properties.get("content_type"):
                given.setdefault("content_type", "application/json")
        return sender.message(body, **{**properties, **given, "headers": headers})
    except (ValueError, UsageError, RecursionError) as error:
        raise DataError(str(error)) from error


def _parse(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line, parse_constant=_no_constant)
    except ValueError as error:
        raise DataError(f"not valid JSON ({error})") from error
    if not isinstance(value, dict) or "body" not in value:
        raise DataError('expected an object with a "body"')
    for key, item in value.items():
        if key not in _KEYS:
            raise DataError(f"unknown key {key!r}; known: {', '.join(_KEYS)}")
        kind, words = _KEYS[key]
        right = isinstance(item, kind) and not (kind is int and isinstance(item, bool))
        if not right or (key == "priority" and item not in range(256)):
            raise DataError(f"{key}: found {json.dumps(item)[:_SHOWN]}, expected {words}")
    return value


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


class Bar:
    """A progress bar on a terminal, nothing elsewhere."""

    def __init__(self) -> None:
        self._bar: Any = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(unit=" messages", mininterval=0.2, leave=False)

    def add(self, count: int) -> None:
        """So many more are safe."""
        if self._bar is not None:
            self._bar.update(count)

    def close(self) -> None:
        """Take it off the screen."""
        if self._bar is not None:
            self._bar.close()
