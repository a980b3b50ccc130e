"""What is said when the broker refuses a queue: what it has, what we want, and the ways out."""

from typing import Any

import pytest

from workqueued.amqp.levels import declare_levels, explain_levels
from workqueued.amqp.topology import (
    declare,
    explain_dead_queue,
    explain_refusal,
    find_difference,
    queue_arguments,
)
from workqueued.queue_settings import Queue

MISMATCH = "PRECONDITION_FAILED - inequivalent arg '{}' for queue '{}' in vhost '/': received {} but current is {}"

#: (argument, what RabbitMQ received, what it has, what we call these two): the texts of RabbitMQ 3.10 and 4.0.
TEXTS = [
    ("durable", "'false'", "'true'", "false", "true"),
    ("durable", "'true'", "'false'", "true", "false"),
    ("x-message-ttl", "the value '1000' of type 'signedint'", "none", "1000", "none"),
    ("x-message-ttl", "none", "the value '5' of type 'signedint'", "none", "5"),
    ("x-message-ttl", "'6'", "'5'", "6", "5"),
    ("x-queue-type", "the value 'quorum' of type 'longstr'", "none", "quorum", "none"),
    ("x-queue-type", "none", "the value 'quorum' of type 'longstr'", "none", "quorum"),
    ("x-queue-type", "'quorum'", "'classic'", "quorum", "classic"),
    ("x-queue-type", "'classic'", "'quorum'", "classic", "quorum"),
]

QUORUM, CLASSIC = Queue(handler="a:b"), Queue(handler="a:b", type="classic")


@pytest.mark.parametrize(("argument", "received", "current", "wanted", "found"), TEXTS)
@pytest.mark.parametrize("name", ["task_queue", "it's", "a' in vhost 'b", "received 'x' but current is 'y'"])
def test_the_difference_is_found_in_the_words_of_both_versions(
    argument: str, received: str, current: str, wanted: str, found: str, name: str
) -> None:
    """Whatever the queue is called."""
    text = MISMATCH.format(argument, name, received, current)
    assert find_difference(text) == (argument, wanted, found)
    assert find_difference(f"(406, {text!r})") is not None


@pytest.mark.parametrize(
    "text",
    [
        "NOT_FOUND - no queue 'q' in vhost '/'",
        "ACCESS_REFUSED - access to queue 'q' in vhost '/' refused for user 'guest'",
        "PRECONDITION_FAILED - invalid arg 'x-delivery-limit' for queue 'q' in vhost '/' of queue type rabbit_x_queue",
        "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'e' in vhost '/': received 'a' but current is 'b'",
        "",
    ],
)
def test_another_error_has_no_difference(text: str) -> None:
    """Not to be taken for one."""
    assert find_difference(text) is None


@pytest.mark.parametrize(("argument", "received", "current", "wanted", "found"), TEXTS)
def test_an_explanation_names_both_sides_and_the_ways_out(
    argument: str, received: str, current: str, wanted: str, found: str
) -> None:
    """An operator reads this once, in the middle of something else."""
    text = explain_refusal("task_queue", QUORUM, MISMATCH.format(argument, "task_queue", received, current))
    assert f"queue 'task_queue' exists with {argument}={found}, and the configuration wants {argument}={wanted}" in text
    assert "declare: false" in text
    assert "another queue name" in text
    assert "rabbitmqctl delete_queue task_queue" in text


@pytest.mark.parametrize(("received", "current"), [TEXTS[5][1:3], TEXTS[7][1:3]])
def test_a_classic_queue_in_the_way_is_answered_with_its_type_first(received: str, current: str) -> None:
    """The queue of the older tutorials, met by our default: the commonest case of all."""
    text = explain_refusal("q", QUORUM, MISMATCH.format("x-queue-type", "q", received, current))
    assert "choose one: type: classic, under queues.q (the queue was made by a client that asked for no type)" in text


@pytest.mark.parametrize(("received", "current"), [TEXTS[6][1:3], TEXTS[8][1:3]])
def test_a_quorum_queue_in_the_way_is_answered_with_its_type_first(received: str, current: str) -> None:
    """The other way round."""
    text = explain_refusal("q", CLASSIC, MISMATCH.format("x-queue-type", "q", received, current))
    assert "choose one: type: quorum, under queues.q;" in text


def test_a_transient_queue_is_not_taken_without_a_warning() -> None:
    """Its messages are gone when the broker restarts."""
    text = explain_refusal("q", CLASSIC, MISMATCH.format("durable", "q", "'true'", "'false'"))
    assert "declare: false (take the queue as it is), under queues.q, and then lose its messages" in text


def test_a_stream_in_the_way_is_not_answered_with_a_type_that_we_refuse() -> None:
    """`type:` takes quorum or classic."""
    text = explain_refusal("q", QUORUM, MISMATCH.format("x-queue-type", "q", "'quorum'", "'stream'"))
    assert "type: stream" not in text


def test_a_missing_permission_names_all_that_a_worker_needs() -> None:
    """Not only the one that happened to be missing first."""
    refusal = "ACCESS_REFUSED - configure access to queue 'q' in vhost '/' refused for user 'u'"
    for text in (explain_refusal("q", QUORUM, refusal), explain_dead_queue("q.dead", refusal)):
        assert "no permission on queue 'q" in text
        assert refusal in text
        assert "configure, read and write on 'q' and 'q.dead', and write on amq.default" in text
        assert "rabbitmqctl set_permissions -p VHOST USER" in text


def test_a_missing_queue_that_we_may_not_declare_is_told_so() -> None:
    """`declare: false` means that somebody else makes it."""
    refusal = "NOT_FOUND - no queue 'q' in vhost '/'"
    text = explain_refusal("q", Queue(handler="a:b", declare="false"), refusal)
    assert text == f"queue 'q' does not exist, and declare: false means that somebody else makes it ({refusal})"


def test_an_exclusive_queue_is_told_so() -> None:
    """It belongs to one connection."""
    refusal = "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q' in vhost '/'"
    assert "belongs to one connection alone (exclusive); choose another name" in explain_refusal("q", QUORUM, refusal)


def test_what_we_do_not_know_is_quoted() -> None:
    """The broker's own words, with the queue."""
    assert explain_refusal("q", QUORUM, "PRECONDITION_FAILED - whatever") == (
        "the broker refuses queue 'q': PRECONDITION_FAILED - whatever"
    )
    assert "dead queue 'q.dead': whatever" in explain_dead_queue("q.dead", "whatever")


def test_a_dead_queue_in_the_way_is_explained() -> None:
    """Its arguments are fixed, so the configuration cannot help."""
    text = explain_dead_queue(
        "q.dead", MISMATCH.format("x-delivery-limit", "q.dead", "the value '1000000' of type 'signedint'", "none")
    )
    assert "the dead queue 'q.dead' exists with x-delivery-limit=none" in text
    assert "workqueued needs x-delivery-limit=1000000" in text
    assert "rabbitmqctl delete_queue q.dead" in text


# --- delay levels ---


@pytest.mark.parametrize(("argument", "received", "current", "wanted", "found"), TEXTS)
def test_a_delay_level_in_the_way_is_explained(
    argument: str, received: str, current: str, wanted: str, found: str
) -> None:
    """By its name, as it may be any of many; there is nothing to configure."""
    text = explain_levels(MISMATCH.format(argument, "wq.delay.3", received, current))
    assert f"queue 'wq.delay.3' exists with {argument}={found}, and workqueued needs {argument}={wanted} for" in text
    assert "rabbitmqctl delete_queue wq.delay.3" in text


def test_an_exchange_in_the_way_is_explained() -> None:
    """There is no command of rabbitmqctl to delete it."""
    refusal = MISMATCH.replace("for queue", "for exchange").format("type", "wq.delay.3", "'topic'", "'direct'")
    text = explain_levels(refusal)
    assert "exchange 'wq.delay.3' exists with type=direct, and workqueued needs type=topic for delays" in text
    assert "rabbitmqctl" not in text


def test_a_missing_permission_for_delays_names_all_that_are_needed() -> None:
    """As a pattern that can be given to rabbitmqctl."""
    refusal = "ACCESS_REFUSED - configure access to exchange 'wq.delay.deliver' in vhost '/' refused for user 'u'"
    text = explain_levels(refusal)
    assert refusal in text
    assert r"configure, write and read on wq\.delay\..*, and write on amq.default" in text


def test_what_we_do_not_know_of_levels_is_quoted() -> None:
    """The broker's own words."""
    assert explain_levels("RESOURCE_LOCKED - x") == "the broker refuses the delay levels: RESOURCE_LOCKED - x"


class Recorder:
    """Notes what is asked of a channel, in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda first, *_, **__: self.calls.append((name, first))


def test_levels_are_declared_from_the_bottom_up() -> None:
    """Whoever finds a level must find all below it; and nothing is declared for a queue that is not there."""
    recorder = Recorder()
    declare_levels(recorder, "q", 2)
    assert recorder.calls[0] == ("queue_declare", "q")
    queues = [name for what, name in recorder.calls[1:] if what == "queue_declare"]
    assert queues == ["wq.delay.dead", "wq.delay.to.q", "wq.delay.0", "wq.delay.1", "wq.delay.2"]
    exchanges = [name for what, name in recorder.calls if what == "exchange_declare"]
    assert exchanges == ["wq.delay.dead", "wq.delay.deliver", "wq.delay.0", "wq.delay.1", "wq.delay.2"]


# --- what is declared -----------------------------------------------------------------------------------------------


class Channel:
    """Notes what is declared."""

    def __init__(self) -> None:
        self.declared: list[tuple[str, dict[str, Any]]] = []

    def queue_declare(self, name: str, **options: Any) -> None:
        """Take it down."""
        self.declared.append((name, options))


DEAD = ("q.dead", {"durable": True, "arguments": {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000}})


@pytest.mark.parametrize(
    ("queue", "options"),
    [
        (QUORUM, {"durable": True, "arguments": {"x-queue-type": "quorum"}}),
        (CLASSIC, {"durable": True, "arguments": {}}),
        (Queue(handler="a:b", declare="false"), {"passive": True}),
    ],
)
def test_a_queue_is_declared_as_plainly_as_possible(queue: Queue, options: dict[str, Any]) -> None:
    """So that any client's ordinary declaration matches, and no setting of ours can be answered with 406."""
    channel = Channel()
    declare(channel, "q", queue)
    assert channel.declared == [("q", options), DEAD]


def test_a_classic_queue_is_declared_as_the_tutorials_do() -> None:
    """`channel.queue_declare(queue='task_queue', durable=True)`: no argument at all."""
    assert queue_arguments("classic") == {}
