"""From what a handler did to what the broker is told: one enum in between, and no effects.

Runs in: worker.

    what the handler ended with  →  decide()  →  Verdict(outcome, reason, error)  →  the worker settles
"""

import enum
import math
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from workqueued.delays import LONGEST
from workqueued.delivery import (
    ATTEMPT,
    CRASHES,
    DUE_AT,
    EXPIRES_AT,
    REDELIVERIES,
    Delivery,
    Message,
    Properties,
    new_message_id,
)
from workqueued.errors import Reject, Retry, TimeLimitExceeded, Undecodable, UnusableError
from workqueued.queue_settings import DEAD_SUFFIX, Queue, RetryPolicy

#: `x-wq-error` is one line of at most this many characters.
_LONGEST_ERROR = 500

#: Headers of the broker's own that must not travel with a copy: CC and BCC route further copies, and a stale
#: x-delivery-count is believed by RabbitMQ 4 quorum queues; x-death and its kin describe another message's life.
_NOT_COPIED = ("CC", "BCC", "x-death", "x-delivery-count", "x-acquired-count")
_NOT_COPIED_PREFIXES = ("x-first-death-", "x-last-death-")
#: What tells of one failure only, and goes when the next one is told.
_OF_ONE_FAILURE = ("x-wq-exit", "x-wq-signal", "x-wq-stderr", DUE_AT)
#: User and password in a URL that an error quotes.
_USERINFO = re.compile(r"(?<=://)[^\s/@]+:[^\s@]*@")

#: Exit codes of a command (sysexits.h) that mean: this message can never be handled.
_REJECTING = {64: "EX_USAGE", 65: "EX_DATAERR", 66: "EX_NOINPUT", 76: "EX_PROTOCOL", 77: "EX_NOPERM"}
#: … try it again, and: the command itself cannot be run (a shell's codes for "not executable" and "not found").
_TEMPFAIL = 75
_UNUSABLE = {78: "EX_CONFIG", 126: "not executable", 127: "not found"}


class Outcome(enum.StrEnum):
    """How a delivery ends; the value is the word in the log."""

    DONE = "done"
    RETRIED = "retried"
    DEAD = "dead"
    #: It was given out again: copied to the end of its queue, with the count in a header.
    COUNTED = "counted"
    HANDED_BACK = "handed_back"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Exit:
    """How a command ended.

    Attributes:
        code: its exit code; None when a signal ended it.
        signal: that signal.
        timed_out: it ran into the time limit and was told to end.
        stderr: the end of what it wrote there.
    """

    code: int | None
    signal: int | None
    timed_out: bool
    stderr: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Proof:
    """What this host knows of a message beyond its headers, which are counted in.

    Attributes:
        crashes: how many workers it took down.
        cause: how the last one ended.
        lost: how often the whole service ended with it in hand, for whatever reason.
    """

    crashes: int
    cause: str = ""
    lost: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be done with a delivery, and why.

    Attributes:
        delay: whole seconds before a retry.
        headers: further headers of the copy.
    """

    outcome: Outcome
    reason: str | None = None
    error: str | None = None
    delay: int = 0
    headers: Mapping[str, Any] = field(default_factory=dict)


DONE = Verdict(Outcome.DONE)

#: What a call of a handler ended with: None (it returned), what it raised, or how the command ended.
Result = BaseException | Exit | None


def decide(
    result: Result,
    attempt: int,
    policy: RetryPolicy,
    *,
    timed_out: bool = False,
    chance: Callable[[], float] = random.random,
) -> Verdict:
    """What to do with the message after its handler ended.

    Whatever is raised ends the attempt, SystemExit and KeyboardInterrupt included: a message must not be able to
    stop the worker that happens to hold it.

    Args:
        result: what it ended with.
        attempt: which one this was, from 1.
        policy: of its queue.
        timed_out: the time limit was over; what is raised then is its consequence, whatever it is called.
        chance: between 0 and 1.
    """
    if result is None:
        return DONE
    delay = retry_delay(policy, attempt, chance)
    if isinstance(result, UnusableError):
        return Verdict(Outcome.HANDED_BACK, "unusable", one_line(_shown(result)))
    if isinstance(result, Exit):
        verdict = _judge_exit(result, delay)
    elif isinstance(result, Reject):
        # A handler may raise Reject(404), or a subclass that sets no reason.
        reason = "undecodable" if isinstance(result, Undecodable) else "rejected"
        return Verdict(Outcome.DEAD, reason, one_line(_shown(getattr(result, "reason", result))))
    elif isinstance(result, Retry):
        error = one_line(_shown(getattr(result, "reason", result)))
        verdict = Verdict(Outcome.RETRIED, "failed", error, _asked_delay(result, delay))
    elif timed_out or isinstance(result, TimeLimitExceeded):
        verdict = Verdict(Outcome.RETRIED, "timeout", one_line(describe(result)), delay)
    else:
        verdict = Verdict(Outcome.RETRIED, "failed", one_line(describe(result)), delay)
    if verdict.outcome is Outcome.RETRIED and attempt >= policy.attempts:
        return replace(verdict, outcome=Outcome.DEAD, delay=0)
    return verdict


def _asked_delay(asked: Retry, otherwise: int) -> int:
    """The delay that a handler asked for, if it did; a subclass may hold anything there, or nothing."""
    delay = getattr(asked, "delay", None)
    if not isinstance(delay, int | float) or not 0 <= delay < math.inf:
        return otherwise
    return min(math.ceil(delay), LONGEST)


def _judge_exit(ended: Exit, delay: int) -> Verdict:
    """The contract with commands: the verdict lies in the exit code."""
    code, stderr = ended.code, one_line(ended.stderr[-_LONGEST_ERROR:].strip().rpartition("\n")[2])
    headers: dict[str, Any] = {"x-wq-stderr": redacted(ended.stderr)} if ended.stderr else {}
    headers |= {"x-wq-signal": ended.signal} if ended.signal is not None else {"x-wq-exit": code or 0}
    if ended.timed_out:
        return Verdict(Outcome.RETRIED, "timeout", "the command ran into the time limit", delay, headers)
    if ended.signal is not None:
        return Verdict(Outcome.RETRIED, "failed", f"the command was ended by signal {ended.signal}", delay, headers)
    if code == 0:
        return DONE
    said = f": {stderr}" if stderr else ""
    if code in _UNUSABLE:
        error = f"the command ended with {code} ({_UNUSABLE[code]}){said}"
        return Verdict(Outcome.HANDED_BACK, "unusable", one_line(error))
    if code in _REJECTING:
        error = f"the command ended with {code} ({_REJECTING[code]}){said}"
        return Verdict(Outcome.DEAD, "rejected", one_line(error), headers=headers)
    name = " (EX_TEMPFAIL)" if code == _TEMPFAIL else ""
    return Verdict(Outcome.RETRIED, "failed", one_line(f"the command ended with {code}{name}{said}"), delay, headers)


def retry_delay(policy: RetryPolicy, attempt: int, chance: Callable[[], float] = random.random) -> int:
    """Whole seconds between this attempt and the next.

    Never less than the policy says, and up to its jitter more; the fraction decides how often it is rounded up, so that
    short delays are spread as well.
    """
    base = min(policy.max, policy.first * policy.factor ** min(attempt - 1, 100))
    seconds = base * (1 + policy.jitter * chance())
    return min(max(math.ceil(base), math.floor(seconds + chance())), LONGEST)


def judge_unhandled(delivery: Delivery, queue: Queue, proof: Proof | None, now: float) -> Verdict | None:
    """A verdict without calling the handler; None: call it.

    Args:
        delivery: the message.
        queue: its queue's settings.
        proof: what this host knows of workers that died of it.
        now: seconds since the epoch.
    """
    if delivery.expired(now):
        return Verdict(Outcome.DEAD, "expired", "it waited longer than its expiration allows")
    if not delivery.redelivered:
        return None
    if proof is not None and proof.crashes > delivery.crashes:
        headers = {CRASHES: proof.crashes}
        # The last of the broker's count is the crash itself.
        unproven = _given_out(delivery, queue, proof) - (_broker_count(delivery, queue) is not None)
        if unproven > 0:  # a copy begins a new life for the broker, which counts from 0 again
            headers[REDELIVERIES] = unproven
        if proof.crashes >= queue.crashes:
            error = f"it took down {proof.crashes} workers, the last one by {proof.cause}"
            return Verdict(Outcome.DEAD, "crashed", one_line(error), headers=headers)
        return Verdict(Outcome.COUNTED, "crashed", one_line(proof.cause), headers=headers)
    return _judge_redelivered(delivery, queue, proof)


def _judge_redelivered(delivery: Delivery, queue: Queue, proof: Proof | None) -> Verdict | None:
    """Given out again, nobody knows why: its workers or their hosts die of it, or it is handed back again and again.

    RabbitMQ 4 drops a message from a quorum queue at its 21st delivery, without a word, so ours comes first. Its
    x-delivery-count is believed only beside the redelivered flag, as a stranger's copy may carry an old one. A classic
    queue does not count, and marks everything as redelivered when its broker was killed; so there only what this host
    remembers is counted, by a copy.
    """
    total = _given_out(delivery, queue, proof)
    if total >= queue.redeliveries:
        error = f"given out {total} times before and never settled: its workers died or let it go"
        return Verdict(Outcome.DEAD, "redelivered", error, headers={REDELIVERIES: total})
    if _broker_count(delivery, queue) is not None or total == delivery.redeliveries:
        return None
    return Verdict(Outcome.COUNTED, "redelivered", headers={REDELIVERIES: total})


def _given_out(delivery: Delivery, queue: Queue, proof: Proof | None) -> int:
    """How often a redelivered message was given out before, as far as anybody counts."""
    told, count = delivery.redeliveries, _broker_count(delivery, queue)
    if count is not None:
        return told + count
    return max(told, proof.lost if proof is not None else 0)


def _broker_count(delivery: Delivery, queue: Queue) -> int | None:
    """What the broker counts, if it does; a classic queue passes a stranger's header through."""
    count = delivery.properties.headers.get("x-delivery-count")
    if queue.type == "classic" or not isinstance(count, int) or isinstance(count, bool):
        return None
    return min(max(count, 0), 2**31)


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
    """Text on one line, of bounded length, free of passwords in URLs and of characters that UTF-8 cannot hold."""
    text = redacted(" ".join(text.split()))
    return text if len(text) <= _LONGEST_ERROR else text[: _LONGEST_ERROR - 1] + "…"


def redacted(text: str) -> str:
    """Text without user and password where it quotes a URL; and without what UTF-8 cannot hold."""
    return _USERINFO.sub("***@", text).encode("utf-8", "replace").decode()


def copy_of(delivery: Delivery, verdict: Verdict, *, host: str, handler: str, now: float) -> Message:
    """The copy that a verdict asks for: to the dead queue, or to its own queue, at once or after a delay.

    It is the message as it was, and what happened to it.

    Args:
        delivery: the message.
        verdict: DEAD, RETRIED or COUNTED.
        host: this host's name.
        handler: the handler or the command, for the person who looks into the dead queue.
        now: seconds since the epoch.
    """
    properties = delivery.properties
    headers = copied_headers(properties.headers)
    if verdict.outcome is not Outcome.COUNTED:
        headers = {name: value for name, value in headers.items() if name not in _OF_ONE_FAILURE}
        headers |= _failure(delivery, verdict, host=host, handler=handler, now=now)
    headers |= verdict.headers
    if verdict.outcome is Outcome.RETRIED:
        headers.pop(REDELIVERIES, None)  # it came to an end, so whatever happened before was not its fault
        headers[ATTEMPT] = delivery.attempt + 1
        if verdict.delay:
            headers[DUE_AT] = int(now * 1000) + verdict.delay * 1000
    # An expiration would fire in the dead queue or in a delay level, so it travels as a header.
    if properties.expiration is not None and properties.expiration.isdecimal():
        headers[EXPIRES_AT] = _expires_at(properties, now)
    copy = properties._replace(
        message_id=properties.message_id or new_message_id(),
        expiration=None,
        headers=headers,
    )
    target = delivery.queue + (DEAD_SUFFIX if verdict.outcome is Outcome.DEAD else "")
    return Message(target, delivery.body, copy, verdict.delay)


def _failure(delivery: Delivery, verdict: Verdict, *, host: str, handler: str, now: float) -> dict[str, Any]:
    """The headers that tell of a failure."""
    milliseconds = int(now * 1000)
    first = delivery.properties.headers.get("x-wq-first-failed-at")
    return {
        ATTEMPT: delivery.attempt,
        "x-wq-reason": verdict.reason or "failed",
        "x-wq-error": verdict.error or "",
        "x-wq-first-failed-at": _integer(first) or milliseconds,
        "x-wq-last-failed-at": milliseconds,
        "x-wq-host": host,
        "x-wq-queue": delivery.queue,
        "x-wq-handler": handler,
    }


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
