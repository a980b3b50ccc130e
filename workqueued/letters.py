"""Letters: what is in a dead queue, what its headers tell, which ones are meant, and what a replay makes of them.

Runs in: `wq-dead`. Pure.

A dead letter is put there by a worker (its `x-wq-` headers tell why), by the broker (`x-death`), or by anybody, so
nothing in its headers is taken on trust: a value of the wrong type is shown, and not believed.
"""

import datetime as dt
import json
from dataclasses import dataclass
from typing import Any

from workqueued.archive import to_json
from workqueued.delivery import (
    ATTEMPT,
    CRASHES,
    DUE_AT,
    ENQUEUED_AT,
    EXPIRES_AT,
    REDELIVERIES,
    REPLAYED,
    Message,
    Properties,
)
from workqueued.durations import parse_duration
from workqueued.outcome import copied_headers

REASON, ERROR, HANDLER, HOST, QUEUE = "x-wq-reason", "x-wq-error", "x-wq-handler", "x-wq-host", "x-wq-queue"
EXIT, SIGNAL, STDERR = "x-wq-exit", "x-wq-signal", "x-wq-stderr"
FIRST_FAILED_AT, LAST_FAILED_AT = "x-wq-first-failed-at", "x-wq-last-failed-at"
LEFT_OUT = "x-wq-headers-left-out"
#: Stands before a reason that the broker gave: `broker:expired`.
BROKER = "broker:"
#: The reason of a letter that tells none.
UNKNOWN = "unknown"

#: What told of the failure, and goes when the message gets another chance. Its expiration as well: it has passed, or
#: will soon, and the message would come back as expired.
_RESET = (
    ATTEMPT, CRASHES, REDELIVERIES, REASON, ERROR, EXIT, SIGNAL, STDERR, HANDLER, FIRST_FAILED_AT, LAST_FAILED_AT,
    HOST, QUEUE, DUE_AT, EXPIRES_AT,
)  # fmt: skip
#: The last millisecond of the calendar, 9999-12-31 in every time zone.
_LAST_MS = 253_402_214_400_000


@dataclass(frozen=True, slots=True)
class Death:
    """An entry of the broker's `x-death`; `at` is ms since the epoch."""

    reason: str
    queue: str
    at: int | None
    count: int


@dataclass(frozen=True, slots=True)
class Letter:
    """A message in a dead queue, given to us and not settled.

    Attributes:
        tag: the delivery tag; it means something on its own channel only.
        identity: its id, or where it has none, what its content makes of it.
        size: bytes of the body.
        body: None where it was not kept.
    """

    tag: int
    identity: str
    properties: Properties
    size: int
    body: bytes | None = None

    @property
    def reason(self) -> str:
        """Why it is here: our word, the broker's after `broker:`, or `unknown`."""
        ours = text(self.properties.headers.get(REASON))
        if ours and not ours.startswith(BROKER):
            return ours
        deaths = self.deaths
        if deaths:
            return BROKER + deaths[0].reason
        first = self.properties.headers.get("x-first-death-reason")
        return BROKER + first if isinstance(first, str) and first else UNKNOWN

    @property
    def deaths(self) -> list[Death]:
        """What the broker noted of it, newest first; entries that make no sense are left out."""
        noted = self.properties.headers.get("x-death")
        if not isinstance(noted, list):
            return []
        return [
            Death(
                one["reason"], text(one.get("queue")) or "", milliseconds(one.get("time")), count(one.get("count"))
            )
            for one in noted
            if isinstance(one, dict) and isinstance(one.get("reason"), str)
        ]

    @property
    def failed_at(self) -> int | None:
        """When it failed last, ms since the epoch, by the worker or else by the broker."""
        ours = milliseconds(self.properties.headers.get(LAST_FAILED_AT))
        if ours is not None:
            return ours
        return next((death.at for death in self.deaths), None)

    @property
    def origin(self) -> str | None:
        """The queue that it came from, if a worker noted it."""
        queue = self.properties.headers.get(QUEUE)
        return queue if isinstance(queue, str) and queue else None

    def text(self, header: str) -> str | None:
        """A header as text, whatever it holds; None when it is not there."""
        return text(self.properties.headers.get(header))

    def count(self, header: str) -> int:
        """A header that counts something; 0 when no count can be meant."""
        return count(self.properties.headers.get(header))

    def at(self, header: str) -> int | None:
        """A header that holds a time, ms since the epoch; None when no time can be meant."""
        return milliseconds(self.properties.headers.get(header))

    def facts(self) -> dict[str, Any]:
        """What `wq-dead list --json` prints of it; null what is not known."""
        deaths = self.deaths
        return {
            "id": self.identity,
            "reason": self.reason,
            "error": self.text(ERROR),
            "type": self.properties.type,
            "attempt": self.count(ATTEMPT) or None,
            "crashes": self.count(CRASHES),
            "redeliveries": self.count(REDELIVERIES),
            "exit": _json_or_none(self.properties.headers.get(EXIT)),
            "signal": _json_or_none(self.properties.headers.get(SIGNAL)),
            "handler": self.text(HANDLER),
            "host": self.text(HOST),
            "queue": self.origin or (deaths[0].queue if deaths else None),
            "first_failed_at": iso(self.at(FIRST_FAILED_AT)),
            "failed_at": iso(self.failed_at),
            "enqueued_at": iso(self.at(ENQUEUED_AT)),
            "replayed_at": iso(self.at(REPLAYED)),
            "size": self.size,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which letters are meant; an empty one means all.

    Attributes:
        ids: these alone.
        reasons: any of them; `broker` stands for all of the broker's.
        error: a part of the error.
        after, before: failed then, ms since the epoch; a letter that does not tell when is not meant.
    """

    ids: frozenset[str] = frozenset()
    reasons: frozenset[str] = frozenset()
    error: str | None = None
    types: frozenset[str] = frozenset()
    handlers: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()
    after: int | None = None
    before: int | None = None

    def matches(self, letter: Letter) -> bool:
        """Whether this letter is meant."""
        if self.ids and letter.identity not in self.ids:
            return False
        if self.types and letter.properties.type not in self.types:
            return False
        if self.reasons and not self._has_reason(letter.reason):
            return False
        if self.error is not None and self.error not in (letter.text(ERROR) or ""):
            return False
        if self.handlers and letter.text(HANDLER) not in self.handlers:
            return False
        if self.hosts and letter.text(HOST) not in self.hosts:
            return False
        if self.after is None and self.before is None:
            return True
        failed = letter.failed_at
        return (
            failed is not None
            and (self.after is None or failed >= self.after)
            and (self.before is None or failed < self.before)
        )

    def _has_reason(self, reason: str) -> bool:
        return reason in self.reasons or (reason.startswith(BROKER) and BROKER[:-1] in self.reasons)


def replayed(letter: Letter, queue: str, now: float) -> Message:
    """The message that a replay publishes: as it was sent, with its counts reset, and marked.

    Args:
        letter: with its body.
        queue: where to.
        now: seconds since the epoch.
    """
    headers = copied_headers(letter.properties.headers)
    for name in _RESET:
        headers.pop(name, None)
    headers[REPLAYED] = int(now * 1000)
    return Message(queue, letter.body or b"", letter.properties._replace(headers=headers))


def text(value: Any) -> str | None:
    """A header's value as text; what is no text as JSON."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return compact(value)


def compact(value: Any) -> str:
    """Any header's value as one line of JSON."""
    try:
        return json.dumps(to_json(value), ensure_ascii=False, separators=(", ", ": "))
    except RecursionError:
        return "(nested too deeply)"


def count(value: Any) -> int:
    """A number that counts something, or 0."""
    return int(value) if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**62 else 0


def milliseconds(value: Any) -> int | None:
    """A time in ms since the epoch, from such a number or from an AMQP timestamp; None when it can be none."""
    if isinstance(value, dt.datetime):
        value = int(value.timestamp() * 1000)
    found = count(value)
    return found if 0 < found < _LAST_MS else None


def iso(at: int | None) -> str | None:
    """A time for programs: `2026-05-12T03:14:15.926Z`."""
    if at is None:
        return None
    return dt.datetime.fromtimestamp(at / 1000, dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def local(at: int | None) -> str:
    """A time for people, in the local time zone: `2026-05-12 03:14:15`; empty when it is not known."""
    if at is None:
        return ""
    return dt.datetime.fromtimestamp(at / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def parse_when(words: str, now: float) -> int:
    """A moment, ms since the epoch: so long ago (`90m`), or a date with or without a time, local unless it says.

    Raises:
        ValueError: it is neither.
    """
    try:
        return int((now - parse_duration(words)) * 1000)
    except ValueError:
        pass
    try:
        return int(dt.datetime.fromisoformat(words).astimezone().timestamp() * 1000)
    except (ValueError, OverflowError, OSError) as error:
        raise ValueError(
            f"{words!r} is neither so long ago (90m, 2h, 1d) nor a time such as 2026-05-12T03:14"
        ) from error


def _json_or_none(value: Any) -> Any:
    return None if value is None else to_json(value)
