"""Declaring: as plainly as anybody does, and clear words when the broker has it otherwise."""

from collections.abc import Callable
from typing import Any

import pytest
from harness import Vhost

from workqueued.amqp.topology import declare, declare_dead_queue, declare_once
from workqueued.broker_settings import Broker
from workqueued.errors import QueueRefusedError
from workqueued.queue_settings import Queue

MakeUser = Callable[..., str]


def queue(**changes: Any) -> Queue:
    """A queue of the configuration; classic unless changed."""
    return Queue(**{"handler": "a:b", "type": "classic", **changes})


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_declaring_twice_changes_nothing(vhost: Vhost, kind: str) -> None:
    """Every worker of every host does it, whenever it connects; messages stay."""
    with vhost.channel() as channel:
        declare(channel, "q", queue(type=kind))
    vhost.publish("q", "1")
    vhost.publish("q.dead", "2")
    with vhost.channel() as channel:
        declare(channel, "q", queue(type=kind))
    assert (vhost.count("q"), vhost.count("q.dead")) == (1, 1)


@pytest.mark.parametrize("ours_first", [True, False])
def test_a_classic_queue_is_the_one_of_the_tutorials(vhost: Vhost, ours_first: bool) -> None:
    """Neither `queue_declare(queue='task_queue', durable=True)` nor ours is refused by the other."""
    with vhost.channel() as channel:
        if ours_first:
            declare(channel, "task_queue", queue())
        channel.queue_declare(queue="task_queue", durable=True)
        declare(channel, "task_queue", queue())


def test_a_queue_with_declare_false_is_taken_as_it_is(vhost: Vhost) -> None:
    """Whatever its type and arguments; its dead queue is ours."""
    with vhost.channel() as channel:
        channel.queue_declare("q", durable=True, arguments={"x-max-length": 5})
        declare(channel, "q", queue(type="quorum", declare="false"))
    assert vhost.count("q.dead") == 0


@pytest.mark.parametrize(
    ("existing", "wanted", "words"),
    [
        (
            {"durable": True},
            "quorum",
            ["x-queue-type=(none|classic), and the configuration wants x-queue-type=quorum", "type: classic, under"],
        ),
        (
            {"durable": True, "arguments": {"x-queue-type": "quorum"}},
            "classic",
            [
                "x-queue-type=quorum, and the configuration wants x-queue-type=(none|classic)",
                r"type: quorum, under queues\.q",
            ],
        ),
        (
            {"durable": False},
            "classic",
            ["durable=false, and the configuration wants durable=true", "lose its messages whenever the broker"],
        ),
        (
            {"durable": True, "arguments": {"x-message-ttl": 5000}},
            "classic",
            ["x-message-ttl=5000, and the configuration wants x-message-ttl=none"],
        ),
        (
            {"durable": True, "arguments": {"x-queue-type": "quorum", "x-delivery-limit": 5}},
            "quorum",
            ["x-delivery-limit=5, and the configuration wants x-delivery-limit=none"],
        ),
        (
            {"durable": True, "arguments": {"x-max-priority": 5}},
            "classic",
            ["x-max-priority=5, and the configuration wants x-max-priority=none"],
        ),
    ],
    ids=["classic", "quorum", "transient", "ttl", "delivery limit", "priority"],
)
def test_a_queue_that_is_there_otherwise_is_shown_against_what_was_wanted(
    vhost: Vhost, existing: dict[str, Any], wanted: str, words: list[str]
) -> None:
    """With the ways out; nothing of ours is declared beside it, and the other queue is not touched."""
    with vhost.channel() as channel:
        channel.queue_declare("q", **existing)
    with vhost.channel() as channel, pytest.raises(QueueRefusedError) as caught:
        declare(channel, "q", queue(type=wanted))
    for word in [*words, "queue 'q' exists with", r"declare: false .* under queues\.q", "another queue name",
                 "rabbitmqctl delete_queue q"]:  # fmt: skip
        assert caught.match(word)
    assert vhost.count("q.dead") == -1
    with vhost.channel() as channel:
        channel.queue_declare("q", **existing)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (None, "x-queue-type=(none|classic), and workqueued needs x-queue-type=quorum"),
        ({"x-queue-type": "quorum"}, "x-delivery-limit=none, and workqueued needs x-delivery-limit=1000000"),
    ],
    ids=["classic", "no delivery limit"],
)
def test_a_dead_queue_that_is_there_otherwise_is_refused(
    vhost: Vhost, arguments: dict[str, Any] | None, words: str
) -> None:
    """It would lose messages that are looked at often; the text says how to get rid of it."""
    with vhost.channel() as channel:
        channel.queue_declare("q.dead", durable=True, arguments=arguments)
    with vhost.channel() as channel, pytest.raises(QueueRefusedError, match=words) as caught:
        declare(channel, "q", queue())
    assert caught.match("the dead queue 'q.dead' exists")
    assert caught.match("rabbitmqctl delete_queue q.dead")


@pytest.mark.parametrize("configure", ["^$", "^q$"], ids=["the queue", "the dead queue"])
def test_a_missing_permission_is_told_with_all_that_are_needed(
    broker: Broker, make_user: MakeUser, configure: str
) -> None:
    """Once, not one after the other."""
    url = broker.url[0].parse(make_user("builder", configure=configure))
    with pytest.raises(QueueRefusedError, match="no permission on queue") as caught:
        declare_once(Broker(url=(url,)), "q", queue(), "test")
    assert caught.match(r"configure, read and write on 'q' and 'q\.dead', and write on amq\.default")
    assert caught.match("rabbitmqctl set_permissions")


def test_a_queue_that_others_should_have_made_is_missed(vhost: Vhost) -> None:
    """declare: false, and it is not there."""
    with vhost.channel() as channel, pytest.raises(QueueRefusedError, match="queue 'q' does not exist") as caught:
        declare(channel, "q", queue(declare="false"))
    assert caught.match("declare: false")
    assert vhost.count("q") == -1


@pytest.mark.parametrize("how", ["plain", "false"])
def test_a_queue_that_belongs_to_one_connection_is_named_so(vhost: Vhost, how: str) -> None:
    """Exclusive to another connection: another name is the way out."""
    with vhost.channel() as theirs, vhost.channel() as channel:
        theirs.queue_declare("q", durable=True, exclusive=True)
        with pytest.raises(QueueRefusedError, match=r"belongs to one connection alone \(exclusive\); choose another"):
            declare(channel, "q", queue(declare=how))


def test_a_dead_queue_keeps_messages_that_are_looked_at_again_and_again(vhost: Vhost) -> None:
    """RabbitMQ 4 drops a message after 20 returns unless the queue says otherwise."""
    with vhost.channel() as channel:
        declare_dead_queue(channel, "q.dead")
    vhost.publish("q.dead", "precious")
    with vhost.channel() as channel:
        for _ in range(30):
            _take_and_return(channel)
    assert vhost.get("q.dead")[1] == b"precious"


def _take_and_return(channel: Any) -> None:
    method = None
    while method is None:  # a quorum queue takes a moment to have it back
        method, _, _ = channel.basic_get("q.dead")
    channel.basic_nack(method.delivery_tag, requeue=True)
