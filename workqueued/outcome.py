"""From what a handler did to what the broker is told: one enum in between, and no effects.

Runs in: worker.

    result of the handler  →  decide()  →  Verdict(outcome, reason, error)  →  the worker settles
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from workqueued.config import DEAD_SUFFIX
from workqueued.delivery import ATTEMPT, Delivery, Message, Properties, new_message_id
from workqueued.errors import Reject

#: `x-wq-error` is one line of at most this many characters.
_LONGEST_ERROR = 500

#: Headers of the broker's own that must not travel with a copy: CC and BCC route further copies, and a stale
#: x-delivery-count is believed by RabbitMQ 4 quorum queues; x-death and its kin describe another message's life.
_NOT_COPIED = ("CC", "BCC", "x-death", "x-delivery-count", "x-acquired-count")
_NOT_COPIED_PREFIXES = ("x-first-death-", "x-last-death-")


class Outcome(enum.Enum):
    """How a delivery ends; the value is the word in the log."""

    DONE = "done"
    DEAD = "dead"
    HANDED_BACK = "handed_back"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be done with a delivery, and why."""

    outcome: Outcome
    reason: str | None = None
    error: str | None = None


DONE = Verdict(Outcome.DONE)


def decide(raised: BaseException | None) -> Verdict:
    """What to do with the message after its handler returned (None) or raised.

    Whatever is raised ends the attempt, SystemExit and KeyboardInterrupt included: a message must not be able to
    stop the worker that happens to hold it.
    """
    if raised is None:
        return DONE
    if isinstance(raised, Reject):
        # A handler may raise Reject(404), or a subclass that sets no reason.
        return Verdict(Outcome.DEAD, "rejected", one_line(_shown(getattr(raised, "reason", raised))))
    return Verdict(Outcome.DEAD, "failed", one_line(describe(raised)))


def judge_unhandled(delivery: Delivery, redeliveries: int) -> Verdict | None:
    """A verdict without calling the handler: for a message that was given out again too often.

    Its workers or their hosts die of it, or it is handed back again and again. RabbitMQ 4 drops a message from a quorum
    queue at its 21st delivery, without a word, so ours comes first. Only quorum queues count; their x-delivery-count is
    believed only beside the redelivered flag, as a stranger's copy may carry an old one.
    """
    count = delivery.properties.headers.get("x-delivery-count")
    if not delivery.redelivered or not isinstance(count, int) or isinstance(count, bool) or count < redeliveries:
        return None
    return Verdict(
        Outcome.DEAD, "redelivered", f"given out {count} times before and never settled: its workers died or let it go"
    )


def describe(error: BaseException) -> str:
    """`ValueError: text`, also for an exception whose `__str__` raises."""
    text = _shown(error)
    name = type(error).__name__
    return f"{name}: {text}" if text else name


def _shown(value: object) -> str:
    try:
        return str(value)
    except BaseException:  # noqa: BLE001 - user code; any answer is better than none
        return "(its text cannot be shown)"


def one_line(text: str) -> str:
    """Text on one line, of bounded length, free of characters that UTF-8 cannot hold."""
    text = " ".join(text.split()).encode("utf-8", "replace").decode()
    return text if len(text) <= _LONGEST_ERROR else text[: _LONGEST_ERROR - 1] + "…"


def dead_letter(delivery: Delivery, verdict: Verdict, *, host: str, now: float) -> Message:
    """The copy that goes to the dead queue: the message as it was, and what happened to it.

    Args:
        delivery: the message.
        verdict: why it is dead.
        host: this host's name.
        now: seconds since the epoch.
    """
    properties = delivery.properties
    headers = copied_headers(properties.headers)
    milliseconds = int(now * 1000)
    headers |= {
        ATTEMPT: delivery.attempt,
        "x-wq-reason": verdict.reason or "failed",
        "x-wq-error": verdict.error or "",
        "x-wq-first-failed-at": _integer(headers.get("x-wq-first-failed-at")) or milliseconds,
        "x-wq-last-failed-at": milliseconds,
        "x-wq-host": host,
        "x-wq-queue": delivery.queue,
    }
    # An expiration would fire in the dead queue, so it travels as a header.
    if properties.expiration is not None and properties.expiration.isdecimal():
        headers["x-wq-expires-at"] = _expires_at(properties, now)
    copy = replace(
        properties,
        message_id=properties.message_id or new_message_id(),
        expiration=None,
        headers=headers,
    )
    return Message(delivery.queue + DEAD_SUFFIX, delivery.body, copy)


def copied_headers(headers: Mapping[str, Any]) -> dict[str, Any]:
    """The headers of a message that may travel with a copy of it."""
    return {
        name: value
        for name, value in headers.items()
        if name not in _NOT_COPIED and not name.startswith(_NOT_COPIED_PREFIXES)
    }


def _expires_at(properties: Properties, now: float) -> int:
    """When the message would have expired, ms since the epoch, counted from its timestamp where it has one."""
    since = properties.timestamp if properties.timestamp is not None else int(now)
    return min((since * 1000) + int(properties.expiration or 0), 2**62)


def _integer(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**62 else None
