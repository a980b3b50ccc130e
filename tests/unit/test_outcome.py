"""From what a handler did to what the broker is told, without either."""

from typing import Any

import pytest
from ledgers import UnprintableError

from workqueued.delivery import ATTEMPT, CRASHES, DUE_AT, EXPIRES_AT, REDELIVERIES, Delivery, Message, Properties
from workqueued.errors import Reject, Retry, TimeLimitExceeded, Undecodable, UnusableError
from workqueued.outcome import (
    DONE,
    Exit,
    Outcome,
    Proof,
    Result,
    Verdict,
    copy_of,
    decide,
    describe,
    judge_unhandled,
    one_line,
    retry_delay,
)
from workqueued.queue_settings import Queue, RetryPolicy

NOW = 1_700_000_000.123
NOW_MS = 1_700_000_000_123

#: One attempt, and three that come again after ten seconds.
ONCE = RetryPolicy(attempts=1)
THRICE = RetryPolicy(attempts=3, first=10.0, factor=2.0, jitter=0.0)


def judge(result: Result, attempt: int = 1, policy: RetryPolicy = ONCE, *, timed_out: bool = False) -> Verdict:
    """The verdict, without chance."""
    return decide(result, attempt, policy, timed_out=timed_out, chance=lambda: 0.0)


def test_a_handler_that_returns_is_done() -> None:
    """Whatever it returned."""
    assert judge(None) == DONE == Verdict(Outcome.DONE)
    assert judge(None, timed_out=True) == DONE, "it was interrupted, and finished all the same"


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        (ValueError("no such picture"), "ValueError: no such picture"),
        (ValueError(), "ValueError"),
        (KeyError("size"), "KeyError: 'size'"),
        (ValueError("two\n  lines\tand a tab"), "ValueError: two lines and a tab"),
        (SystemExit(3), "SystemExit: 3"),
        (SystemExit(), "SystemExit"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (GeneratorExit(), "GeneratorExit"),
        (MemoryError(), "MemoryError"),
        (BaseExceptionGroup("two", [ValueError(), SystemExit()]), "BaseExceptionGroup: two (2 sub-exceptions)"),
        (UnprintableError(), "UnprintableError: (its text cannot be shown)"),
    ],
)
def test_whatever_is_raised_ends_the_attempt_as_failed(raised: BaseException, error: str) -> None:
    """Also what would end a program: a message must not be able to stop the worker that holds it."""
    assert judge(raised) == Verdict(Outcome.DEAD, "failed", error)
    assert judge(raised, policy=THRICE) == Verdict(Outcome.RETRIED, "failed", error, 10)


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        (Reject("no such customer"), "no such customer"),
        (Reject(), "rejected by the handler"),
        (Reject("two\nlines"), "two lines"),
        (Reject(404), "404"),  # type: ignore[arg-type]
        (Reject(None), "None"),  # type: ignore[arg-type]
        (Reject(UnprintableError()), "(its text cannot be shown)"),  # type: ignore[arg-type]
    ],
)
def test_a_reject_is_dead_with_its_reason(raised: Reject, error: str) -> None:
    """A reason that is no text once killed the worker, again and again: the message came back each time."""
    assert judge(raised, policy=THRICE) == Verdict(Outcome.DEAD, "rejected", error)


def test_a_subclass_of_reject_needs_no_reason() -> None:
    """Its author may not have called ours."""

    class Refused(Reject):
        def __init__(self) -> None:
            pass

        def __str__(self) -> str:
            return "refused"

    assert judge(Refused()) == Verdict(Outcome.DEAD, "rejected", "refused")


def test_an_exception_that_exits_when_it_is_shown_is_described() -> None:
    """User code may do that, and the worker must not."""

    class Exiting(Exception):  # noqa: N818
        def __str__(self) -> str:
            raise SystemExit(1)

    assert describe(Exiting()) == "Exiting: (its text cannot be shown)"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ""),
        (" a \n\n b\tc\r\n", "a b c"),
        ("caf\xe9 \U0001f600", "caf\xe9 \U0001f600"),
        ("\udcff", "?"),
        ("x" * 500, "x" * 500),
        ("x" * 501, "x" * 499 + "…"),
    ],
)
def test_one_line_is_short_and_can_be_encoded(text: str, line: str) -> None:
    """It becomes a header, which is UTF-8, and a value in the log."""
    assert one_line(text) == line
    line.encode()


FAILED = Verdict(Outcome.DEAD, "failed", "ValueError: x")


def copied(properties: Properties, verdict: Verdict, now: float = NOW) -> Message:
    """The copy of a delivery with these properties."""
    delivery = Delivery("task_queue", 7, b"body", properties)
    return copy_of(delivery, verdict, host="host", handler="tasks:work", now=now)


def letter(properties: Properties, verdict: Verdict = FAILED, now: float = NOW) -> Properties:
    """The properties of the dead letter of a delivery with these properties."""
    message = copied(properties, verdict, now)
    assert (message.queue, message.body, message.delay) == ("task_queue.dead", b"body", 0)
    return message.properties


def test_a_dead_letter_tells_what_happened() -> None:
    """These headers are for the person who looks into the dead queue."""
    assert letter(Properties(message_id="m", headers={ATTEMPT: 3})).headers == {
        ATTEMPT: 3,
        "x-wq-reason": "failed",
        "x-wq-error": "ValueError: x",
        "x-wq-first-failed-at": NOW_MS,
        "x-wq-last-failed-at": NOW_MS,
        "x-wq-host": "host",
        "x-wq-queue": "task_queue",
        "x-wq-handler": "tasks:work",
    }


def test_a_dead_letter_keeps_the_message_as_it_was() -> None:
    """All properties but the expiration, and the sender's headers."""
    properties = Properties(
        message_id="m",
        type="t",
        content_type="text/plain",
        content_encoding="gzip",
        correlation_id="c",
        reply_to="r",
        app_id="a",
        priority=3,
        timestamp=5,
        headers={"tenant": "t", "x-wq-enqueued-at": 5, "nested": {"a": [1, None]}},
    )
    kept = letter(properties)
    headers = kept.headers
    assert kept == Properties(
        **{name: getattr(properties, name) for name in Properties._fields if name != "headers"}, headers=headers
    )
    assert {name: headers[name] for name in properties.headers} == properties.headers


def test_a_dead_letter_leaves_the_broker_s_own_headers_behind() -> None:
    """CC and BCC would route further copies; a stale x-delivery-count is believed by RabbitMQ 4."""
    headers: dict[str, Any] = {
        "CC": ["other"],
        "BCC": ["other"],
        "x-death": [{"count": 1}],
        "x-delivery-count": 19,
        "x-acquired-count": 19,
        "x-first-death-queue": "q",
        "x-first-death-reason": "rejected",
        "x-last-death-exchange": "e",
    }
    kept = letter(Properties(headers={**headers, "cc": "kept", "x-deaths": "kept", "tenant": "kept"})).headers
    assert not headers.keys() & kept.keys()
    assert {name for name, value in kept.items() if value == "kept"} == {"cc", "x-deaths", "tenant"}


def test_an_expiration_travels_as_a_header() -> None:
    """As a property it would fire in the dead queue, and the message would be gone."""
    dead = letter(Properties(expiration="5000", timestamp=1_700_000_000))
    assert dead.expiration is None
    assert dead.headers["x-wq-expires-at"] == 1_700_000_005_000


def test_an_expiration_counts_from_now_where_nobody_says_when_it_was_sent() -> None:
    """Better a late end than none."""
    assert letter(Properties(expiration="5000")).headers["x-wq-expires-at"] == 1_700_000_005_000


@pytest.mark.parametrize("expiration", ["", "soon", "-1", "1.5", "²"])
def test_an_expiration_that_is_no_number_is_dropped(expiration: str) -> None:
    """A broker refuses it, so it never gets here; if it does, nothing breaks."""
    dead = letter(Properties(expiration=expiration))
    assert dead.expiration is None
    assert "x-wq-expires-at" not in dead.headers


def test_an_expiration_beyond_all_time_fits_into_a_header() -> None:
    """AMQP's integers have 64 bits."""
    dead = letter(Properties(expiration="9" * 255, timestamp=2**64 - 1))
    assert dead.headers["x-wq-expires-at"] == 2**62


def test_a_message_without_an_id_gets_one() -> None:
    """From then on it can be told apart, and handled idempotently when it is sent again."""
    first, second = letter(Properties()).message_id, letter(Properties(message_id="")).message_id
    assert first
    assert second
    assert first != second


def test_a_message_keeps_its_id() -> None:
    """It is the handler's key for idempotency."""
    assert letter(Properties(message_id="mine")).message_id == "mine"


def test_the_first_failure_is_remembered_over_the_second() -> None:
    """A message that was moved back from the dead queue, and failed again."""
    first = letter(Properties(), now=NOW)
    second = letter(first, Verdict(Outcome.DEAD, "rejected", "again"), now=NOW + 10)
    assert second.headers["x-wq-first-failed-at"] == NOW_MS
    assert second.headers["x-wq-last-failed-at"] == NOW_MS + 10_000
    assert (second.headers["x-wq-reason"], second.headers["x-wq-error"]) == ("rejected", "again")
    assert second.message_id == first.message_id


@pytest.mark.parametrize("forged", ["yesterday", -1, 0, True, 2**62, None, [1]])
def test_a_forged_first_failure_is_not_believed(forged: object) -> None:
    """It is what we write, in milliseconds, or it is nothing."""
    assert letter(Properties(headers={"x-wq-first-failed-at": forged})).headers["x-wq-first-failed-at"] == NOW_MS


# --- retries ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("attempt", "delay"), [(1, 10), (2, 20), (3, 0)])
def test_a_failure_is_retried_until_its_attempts_are_used_up(attempt: int, delay: int) -> None:
    """With a growing delay."""
    verdict = judge(ValueError("x"), attempt, THRICE)
    assert verdict.outcome is (Outcome.RETRIED if attempt < 3 else Outcome.DEAD)
    assert verdict.delay == delay


def test_a_forged_attempt_beyond_the_policy_is_the_last_one() -> None:
    """It is handled once."""
    assert judge(ValueError("x"), 999_999, THRICE).outcome is Outcome.DEAD


@pytest.mark.parametrize(("asked", "delay"), [(None, 10), (0, 0), (0.2, 1), (59.1, 60), (10**12, 16_777_215)])
def test_a_handler_may_ask_for_its_own_delay(asked: float | None, delay: int) -> None:
    """In whole seconds, never less than it asked for, and no more than the levels hold."""
    assert judge(Retry("later", delay=asked), 1, THRICE) == Verdict(Outcome.RETRIED, "failed", "later", delay)


@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf")])
def test_a_delay_that_cannot_be_waited_for_is_the_handler_s_mistake(delay: float) -> None:
    """Told where it is made."""
    with pytest.raises(ValueError, match="expected seconds"):
        Retry(delay=delay)


def test_a_subclass_of_retry_that_sets_nothing_is_retried_by_the_policy() -> None:
    """Its author may not have called ours."""

    class Later(Retry):
        def __init__(self) -> None:
            self.delay = "tomorrow"  # type: ignore[assignment]

    assert judge(Later(), 1, THRICE).delay == 10


def test_a_timeout_is_a_failed_attempt_with_its_own_reason() -> None:
    """Also where the handler turned the interruption into another error; a verdict of its own stands."""
    assert judge(TimeLimitExceeded("the time limit of 1 s"), 1, THRICE) == Verdict(
        Outcome.RETRIED, "timeout", "TimeLimitExceeded: the time limit of 1 s", 10
    )
    assert judge(KeyError("x"), 1, THRICE, timed_out=True).reason == "timeout"
    assert judge(Reject("no"), 1, THRICE, timed_out=True).reason == "rejected"


def test_a_body_that_is_not_what_it_was_taken_for_is_dead_at_once() -> None:
    """It will not be JSON the next time."""
    assert judge(Undecodable("no JSON"), 1, THRICE) == Verdict(Outcome.DEAD, "undecodable", "no JSON")


@pytest.mark.parametrize(
    ("policy", "attempt", "chance", "delay"),
    [
        (RetryPolicy(first=10, factor=3, jitter=0.1), 1, 0.0, 10),
        (RetryPolicy(first=10, factor=3, jitter=0.1), 1, 0.999, 11),
        (RetryPolicy(first=10, factor=3, jitter=0.1), 3, 0.0, 90),
        (RetryPolicy(first=1, factor=1, jitter=0.1), 5, 0.0, 1),
        (RetryPolicy(first=1, factor=1, jitter=0.1), 5, 0.99, 2),
        (RetryPolicy(first=0.5, jitter=0), 1, 0.0, 1),
        (RetryPolicy(first=0), 4, 0.9, 0),
        (RetryPolicy(first=10, factor=100, max=60, jitter=0), 999, 0.9, 60),
    ],
)
def test_the_delay_grows_and_is_never_less_than_the_policy_says(
    policy: RetryPolicy, attempt: int, chance: float, delay: int
) -> None:
    """Whole seconds; the jitter only adds."""
    assert retry_delay(policy, attempt, lambda: chance) == delay


def test_a_retry_is_the_next_attempt_in_its_own_queue_after_the_delay() -> None:
    """What was counted against it without proof is forgotten: it came to an end."""
    headers = {CRASHES: 1, REDELIVERIES: 7, "x-wq-stderr": "old", "mine": 1}
    message = copied(Properties(message_id="m", headers=headers), Verdict(Outcome.RETRIED, "failed", "x", 20))
    assert (message.queue, message.delay) == ("task_queue", 20)
    kept = message.properties.headers
    assert (kept[ATTEMPT], kept[CRASHES], kept["mine"], kept[DUE_AT]) == (2, 1, 1, NOW_MS + 20_000)
    assert not {REDELIVERIES, "x-wq-stderr"} & kept.keys()


# --- commands --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "outcome", "reason"),
    [
        (0, Outcome.DONE, None),
        (1, Outcome.RETRIED, "failed"),
        (75, Outcome.RETRIED, "failed"),
        (255, Outcome.RETRIED, "failed"),
        (64, Outcome.DEAD, "rejected"),
        (65, Outcome.DEAD, "rejected"),
        (66, Outcome.DEAD, "rejected"),
        (76, Outcome.DEAD, "rejected"),
        (77, Outcome.DEAD, "rejected"),
        (78, Outcome.HANDED_BACK, "unusable"),
        (126, Outcome.HANDED_BACK, "unusable"),
        (127, Outcome.HANDED_BACK, "unusable"),
    ],
)
def test_the_verdict_of_a_command_lies_in_its_exit_code(code: int, outcome: Outcome, reason: str | None) -> None:
    """sysexits.h, and what a shell says of a program that it cannot run."""
    verdict = judge(Exit(code, None, timed_out=False, stderr="one\nlast words\n"), 1, THRICE)
    assert (verdict.outcome, verdict.reason) == (outcome, reason)
    if code:
        assert "last words" in (verdict.error or "")


def test_a_command_that_a_signal_ended_or_that_took_too_long_is_tried_again() -> None:
    """And its story is in the headers, without passwords."""
    killed = judge(Exit(None, 9, timed_out=False, stderr="at amqp://u:secret@h/"), 1, THRICE)
    assert (killed.outcome, killed.reason) == (Outcome.RETRIED, "failed")
    assert killed.headers == {"x-wq-signal": 9, "x-wq-stderr": "at amqp://***@h/"}
    late = judge(Exit(0, None, timed_out=True, stderr=""), 3, THRICE)
    assert (late.outcome, late.reason, late.headers) == (Outcome.DEAD, "timeout", {"x-wq-exit": 0})


def test_a_command_that_cannot_be_run_costs_no_attempt() -> None:
    """The message is handed back, also at its last one."""
    assert judge(UnusableError("gone"), 3, THRICE) == Verdict(Outcome.HANDED_BACK, "unusable", "gone")


# --- messages that were given out before -----------------------------------------------------------------------------

QUEUE = Queue(handler="a:b", crashes=3, redeliveries=10)
CLASSIC = Queue(handler="a:b", type="classic", crashes=3, redeliveries=10)


def unhandled(
    headers: dict[str, Any], proof: Proof | None = None, queue: Queue = QUEUE, *, redelivered: bool = True
) -> Verdict | None:
    """The verdict on a message before its handler is called."""
    return judge_unhandled(Delivery("q", 1, b"", Properties(headers=headers), redelivered), queue, proof, NOW)


def test_a_fresh_message_is_handled_whatever_its_headers_say() -> None:
    """A stranger's copy may carry counts of another life."""
    assert unhandled({"x-delivery-count": 99, REDELIVERIES: 99}, redelivered=False) is None


def test_with_proof_of_a_crash_it_is_counted_and_at_last_buried() -> None:
    """On quorum and classic queues alike."""
    for queue in (QUEUE, CLASSIC):
        counted = unhandled({"x-delivery-count": 1}, Proof(2, "SIGSEGV"), queue)
        assert counted == Verdict(Outcome.COUNTED, "crashed", "SIGSEGV", headers={CRASHES: 2})
        dead = unhandled({"x-delivery-count": 1}, Proof(3, "SIGSEGV"), queue)
        assert dead is not None
        assert (dead.outcome, dead.reason, dead.headers) == (Outcome.DEAD, "crashed", {CRASHES: 3})
        assert dead.error == "it took down 3 workers, the last one by SIGSEGV"


def test_the_copy_that_counts_a_crash_goes_on_with_what_was_counted_without_proof() -> None:
    """The broker begins to count anew with a copy."""
    counted = unhandled({"x-delivery-count": 4, REDELIVERIES: 2}, Proof(1, "SIGSEGV"))
    assert counted is not None
    assert counted.headers == {CRASHES: 1, REDELIVERIES: 5}
    counted = unhandled({REDELIVERIES: 2}, Proof(1, "SIGSEGV", lost=4), CLASSIC)
    assert counted is not None
    assert counted.headers == {CRASHES: 1, REDELIVERIES: 4}


@pytest.mark.parametrize(
    ("headers", "queue", "dead"),
    [
        ({"x-delivery-count": 9}, QUEUE, False),
        ({"x-delivery-count": 10}, QUEUE, True),
        ({"x-delivery-count": 8, REDELIVERIES: 2}, QUEUE, True),
        ({"x-delivery-count": 99}, CLASSIC, False),
        ({"x-delivery-count": "many"}, QUEUE, False),
        ({"x-delivery-count": -5}, QUEUE, False),
        ({"x-delivery-count": 2**63}, QUEUE, True),
    ],
)
def test_without_proof_the_wide_limit_holds(headers: dict[str, Any], queue: Queue, dead: bool) -> None:
    """A quorum queue counts; a classic one marks everything as redelivered when its broker was killed."""
    verdict = unhandled(headers, queue=queue)
    assert (verdict is not None and verdict.outcome is Outcome.DEAD) is dead
    assert dead or verdict is None


def test_on_a_classic_queue_what_this_host_remembers_is_counted_by_copies() -> None:
    """The whole service ended with it in hand."""
    counted = unhandled({REDELIVERIES: 1}, Proof(0, "", lost=2), CLASSIC)
    assert counted == Verdict(Outcome.COUNTED, "redelivered", headers={REDELIVERIES: 2})
    assert unhandled({REDELIVERIES: 2}, Proof(0, "", lost=2), CLASSIC) is None
    dead = unhandled({REDELIVERIES: 9}, Proof(0, "", lost=10), CLASSIC)
    assert dead is not None
    assert (dead.outcome, dead.reason) == (Outcome.DEAD, "redelivered")


def test_a_counting_copy_changes_nothing_but_the_count() -> None:
    """It is no failed attempt."""
    properties = Properties(message_id="m", headers={ATTEMPT: 2, "mine": 1})
    message = copied(properties, Verdict(Outcome.COUNTED, "crashed", headers={CRASHES: 1}))
    assert (message.queue, message.delay) == ("task_queue", 0)
    assert message.properties.headers == {ATTEMPT: 2, "mine": 1, CRASHES: 1}


def test_what_came_too_late_is_dead_and_not_handled() -> None:
    """The expiration of a copy travels as a header."""
    dead = unhandled({EXPIRES_AT: NOW_MS - 1}, redelivered=False)
    assert dead is not None
    assert (dead.outcome, dead.reason) == (Outcome.DEAD, "expired")
    assert unhandled({EXPIRES_AT: NOW_MS + 1}, redelivered=False) is None
