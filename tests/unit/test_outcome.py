"""From what a handler did to what the broker is told, without either."""

from typing import Any

import pytest
from ledgers import UnprintableError

from workqueued.delivery import ATTEMPT, Delivery, Properties
from workqueued.errors import Reject
from workqueued.outcome import DONE, Outcome, Verdict, dead_letter, decide, describe, one_line

NOW = 1_700_000_000.123
NOW_MS = 1_700_000_000_123


def test_a_handler_that_returns_is_done() -> None:
    """Whatever it returned."""
    assert decide(None) == DONE == Verdict(Outcome.DONE)


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
    assert decide(raised) == Verdict(Outcome.DEAD, "failed", error)


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
    assert decide(raised) == Verdict(Outcome.DEAD, "rejected", error)


def test_a_subclass_of_reject_needs_no_reason() -> None:
    """Its author may not have called ours."""

    class Refused(Reject):
        def __init__(self) -> None:
            pass

        def __str__(self) -> str:
            return "refused"

    assert decide(Refused()) == Verdict(Outcome.DEAD, "rejected", "refused")


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


def letter(properties: Properties, verdict: Verdict = FAILED, now: float = NOW) -> Properties:
    """The properties of the dead letter of a delivery with these properties."""
    message = dead_letter(Delivery("task_queue", 7, b"body", properties), verdict, host="host", now=now)
    assert (message.queue, message.body) == ("task_queue.dead", b"body")
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
        **{name: getattr(properties, name) for name in Properties.__slots__ if name != "headers"}, headers=headers
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
