"""What travels: attempts that strangers may forge, waits that clocks may falsify, ids that sort by time."""

import time
import uuid
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from pika.compat import long

from workqueued import delivery as module
from workqueued.delivery import ATTEMPT, ENQUEUED_AT, Delivery, Message, Properties, new_message_id


def delivery(headers: dict[str, Any] | None = None, timestamp: int | None = None) -> Delivery:
    """A delivery with these headers."""
    return Delivery("task_queue", 1, b"body", Properties(timestamp=timestamp, headers=headers or {}))


@pytest.mark.parametrize("value", [1, 2, 7, 1_000_000])
def test_the_attempt_is_read_from_its_header(value: int) -> None:
    """It is written by whoever publishes the next try."""
    assert delivery({ATTEMPT: value}).attempt == value


@pytest.mark.parametrize(
    "value", [None, 0, -1, 1_000_001, 2**63, True, False, "2", b"2", 2.0, [2], {"n": 2}, float("nan")]
)
def test_a_forged_attempt_is_the_first(value: object) -> None:
    """Strangers may publish anything; nothing of ours may break over it."""
    assert repr(delivery({ATTEMPT: value}).attempt) == "1"
    assert delivery().attempt == 1


def test_the_wait_is_counted_from_enqueueing() -> None:
    """Milliseconds, from the header of wq-send rather than from the timestamp, which is in seconds."""
    assert delivery({ENQUEUED_AT: 100_000}, timestamp=50).waited_ms(100.25) == 250


def test_the_wait_is_counted_from_the_timestamp_of_a_stranger() -> None:
    """Any client may set that one."""
    assert delivery(timestamp=100).waited_ms(101.5) == 1500
    assert delivery({ENQUEUED_AT: "100000"}, timestamp=100).waited_ms(101.5) == 1500
    assert delivery({ENQUEUED_AT: True}, timestamp=100).waited_ms(101.5) == 1500


@pytest.mark.parametrize("since", [2**63, -(2**63), 100_001, 0])
def test_a_wait_that_cannot_be_is_not_told(since: int) -> None:
    """The sender's clock is ahead of ours, or somebody lies."""
    now = 10.0**9 if since == 0 else 100.0
    assert delivery({ENQUEUED_AT: since}).waited_ms(now) is None
    assert delivery(timestamp=2**64 - 1).waited_ms(now) is None


def test_without_a_word_on_when_it_was_sent_there_is_no_wait() -> None:
    """Not a false 0."""
    assert delivery().waited_ms(100.0) is None


def test_a_new_message_id_is_a_uuid_of_version_7() -> None:
    """RFC 9562; its first 48 bits are milliseconds since the epoch."""
    before = time.time_ns() // 1_000_000
    ids = [uuid.UUID(new_message_id()) for _ in range(1000)]
    after = time.time_ns() // 1_000_000
    assert len(set(ids)) == len(ids)
    for one in ids:
        assert one.version == 7
        assert one.variant == uuid.RFC_4122
        assert before <= one.int >> 80 <= after


def test_message_ids_sort_by_time_also_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that ids in a log, or files that are named after them, lie in the order of sending."""
    ids = []
    for milliseconds in (0, 1, 255, 256, 1_000_000, 1_700_000_000_000, 1_700_000_000_001, 2**48 - 1):
        monkeypatch.setattr(module, "time", SimpleNamespace(time_ns=lambda value=milliseconds: value * 1_000_000))
        ids.append(new_message_id())
    assert ids == sorted(ids)
    assert ids[0].startswith("00000000-0000-7")
    assert {len(one) for one in ids} == {36}


def test_bodies_do_not_show_in_a_repr() -> None:
    """A repr ends up in a log; a body may be anything."""
    assert "secret" not in repr(Message("q", b"secret")) + repr(Delivery("q", 1, b"secret", Properties()))


def test_a_life_is_told_by_the_body_and_by_a_replay() -> None:
    """Not by what copies add."""
    first = delivery({"x-wq-crashes": 1})
    assert first.life == delivery({}).life
    assert first.life != delivery({"x-wq-replayed": 1_700_000_000_000}).life
    assert first.life != replace(first, body=b"another").life
    assert 0 <= delivery({"x-wq-replayed": -(2**63)}).life < 2**32


def test_a_message_without_an_id_is_known_by_its_content() -> None:
    """An id, if there is one, is all that counts."""
    assert delivery({}).identity.startswith("body:")
    named = replace(delivery({}), properties=Properties(message_id="m"))
    assert named.identity == "m"


def test_a_message_that_was_copied_to_count_it_was_given_out_before() -> None:
    """The broker's flag does not survive a copy."""
    assert not delivery({}).given_before
    assert delivery({"x-wq-crashes": 1}).given_before
    assert delivery({"x-wq-redeliveries": 1}).given_before
    assert replace(delivery({}), redelivered=True).given_before


def test_a_wait_is_counted_from_when_it_could_be_handled() -> None:
    """The end of a delay, or a replay: a week in the dead queue is no wait for a worker."""
    now = 1_700_000_100.0
    for later in ("x-wq-due-at", "x-wq-replayed"):
        assert delivery({ENQUEUED_AT: 1_600_000_000_000, later: 1_700_000_099_000}).waited_ms(now) == 1000
        assert delivery({later: 1_700_000_099_000}).waited_ms(now) == 1000


def test_a_number_in_the_class_that_pika_has_for_64_bits_counts() -> None:
    """It is an int, and no int: a look at the type alone would not see it."""
    counted = delivery({"x-wq-attempt": long(3), "x-wq-enqueued-at": long(1000), "x-wq-crashes": True})
    assert (counted.attempt, counted.waited_ms(2.0), counted.crashes) == (3, 1000, 0)
