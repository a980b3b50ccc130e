"""Delays on a real broker: never early, only to its own queue, and whatever somebody deletes meanwhile."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from harness import Vhost, eventually

from workqueued import delays
from workqueued.amqp import copies as copies_module
from workqueued.amqp.copies import Copies
from workqueued.amqp.levels import Levels, declare_levels
from workqueued.amqp.topology import declare_dead_queue
from workqueued.broker_settings import Broker
from workqueued.delivery import Message, Properties
from workqueued.errors import DataError, QueueRefusedError, UnroutableError, UsageError, WorkqueuedError
from workqueued.node import Node
from workqueued.sender import Sender
from workqueued.urls import BrokerUrl

Send = Callable[..., Any]
Block = Callable[[], AbstractContextManager[None]]
MakeConfig = Callable[..., Path]
MakeUser = Callable[..., str]

ODD_NAMES = [
    "q", "a.b", "a%2Eb", "a%252Eb", "a*b", "*", "#", "a#", "a", "b", "a b", "%", "é" * 120, "日本語",
    "x" * 250, "x" * 249 + "y", "." * 100, "wq.delay.0.x",
]  # fmt: skip

#: What docs/messages.md says of this level.
LEVEL_1 = {
    "x-queue-type": "quorum",
    "x-message-ttl": 2000,
    "x-dead-letter-exchange": "wq.delay.0",
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
}


class Arrivals:
    """What arrives in some queues, and when."""

    def __init__(self, vhost: Vhost, *queues: str) -> None:
        self.found: list[tuple[str, float, Any, Any, bytes]] = []
        self._connection = vhost.connect()
        channel = self._connection.channel()
        for queue in queues:
            channel.queue_declare(queue, durable=True)
            channel.basic_consume(queue, self._taker(queue), auto_ack=True)

    def _taker(self, queue: str) -> Callable[..., None]:
        def take(_channel: Any, method: Any, properties: Any, body: bytes) -> None:
            self.found.append((queue, time.time(), method, properties, body))

        return take

    def wait(self, count: int, within: float = 20.0) -> list[tuple[str, float, Any, Any, bytes]]:
        """Until so many have arrived in all."""
        deadline = time.monotonic() + within
        while len(self.found) < count and time.monotonic() < deadline:
            self._connection.process_data_events(0.1)
        assert len(self.found) >= count, f"{len(self.found)} of {count} arrived within {within} s"
        return self.found

    def settle(self, seconds: float = 0.3) -> int:
        """How many there are after a while."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._connection.process_data_events(0.1)
        return len(self.found)

    def close(self) -> None:
        """Stop."""
        self._connection.close()


@pytest.fixture
def arrivals(vhost: Vhost) -> Iterator[Callable[..., Arrivals]]:
    """Consumes from queues, which it declares."""
    made: list[Arrivals] = []

    def make(*queues: str) -> Arrivals:
        made.append(Arrivals(vhost, *queues))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def copies(broker: Broker) -> Iterator[Copies]:
    """Closed at the end."""
    copies = Copies(broker, "test")
    yield copies
    copies.close()


def copy(copies: Copies, queue: str = "q", delay: int = 1, name: str = "id") -> None:
    """Send a copy, which must succeed at the first try."""
    complaints: list[WorkqueuedError] = []
    message = Message(queue, name.encode(), Properties(message_id=name), delay)
    assert copies.send(message, give_up=lambda: bool(complaints), pause=time.sleep, complain=complaints.append), (
        complaints
    )


# --- never early, and to its own queue alone ---


def test_messages_with_delays_arrive_in_their_own_queue_and_none_early(
    vhost: Vhost, arrivals: Callable[..., Arrivals]
) -> None:
    """Whatever the queues are called, and in one bulk; what has no delay is not held up."""
    there = arrivals(*ODD_NAMES)
    with Sender(vhost.url) as sender:
        started = time.time()
        messages = [
            sender.message(queue, queue=queue, delay=seconds, headers={"delay": seconds})
            for seconds in (5, 3, 1, 2, 4, 0)
            for queue in ODD_NAMES
        ]
        assert len(list(sender.send_many(messages))) == len(messages)
    found = there.wait(len(messages))
    assert there.settle() == len(messages)
    for queue, when, method, properties, body in found:
        assert body.decode() == queue
        assert when >= started + properties.headers["delay"]
        assert method.redelivered is False
        assert "x-delivery-count" not in properties.headers
        assert properties.delivery_mode == 2
    delayed = [(when, properties.headers) for _, when, _, properties, _ in found if properties.headers["delay"]]
    assert len(delayed) == 5 * len(ODD_NAMES)
    late = [when - headers["x-wq-due-at"] / 1000 for when, headers in delayed]
    assert max(late) < 10  # two seconds on an idle broker; this one is not


def test_a_retry_waits_in_the_broker_and_comes_back(copies: Copies, arrivals: Callable[..., Arrivals]) -> None:
    """500 copies through one publisher, each confirmed before the next."""
    there = arrivals("q")
    sent = {}
    for number in range(500):
        sent[str(number)] = time.time()
        copy(copies, name=str(number))
    found = there.wait(500)
    assert {properties.message_id for _, _, _, properties, _ in found} == sent.keys()
    assert all(when >= sent[properties.message_id] + 1 for _, when, _, properties, _ in found)
    assert there.settle() == 500


def test_a_message_may_be_delayed_again_and_again(copies: Copies, arrivals: Callable[..., Arrivals]) -> None:
    """With the headers of the way before, which would make RabbitMQ see a cycle if they were taken along."""
    there = arrivals("q")
    for count in range(1, 4):
        copy(copies, name=str(count))
        assert there.wait(count)[-1][4] == str(count).encode()


def test_a_delay_beyond_all_levels_does_not_keep_a_copy(copies: Copies, vhost: Vhost) -> None:
    """A handler may ask for any; it waits as long as is possible."""
    with vhost.channel() as channel:
        channel.queue_declare("q", durable=True)
    copy(copies, delay=10**12)
    assert eventually(lambda: vhost.count(delays.level(delays.HIGHEST)) == 1)
    copy(copies, delay=-5)
    assert vhost.get("q")[1] == b"id"


# --- whatever somebody deletes ---


@pytest.mark.parametrize(
    ("queues", "exchanges"),
    [
        (["wq.delay.1"], []),
        ([], ["wq.delay.1"]),
        (["wq.delay.0", "wq.delay.1", "wq.delay.to.q"], ["wq.delay.0", "wq.delay.1", "wq.delay.deliver"]),
    ],
    ids=["a queue", "an exchange", "everything"],
)
@pytest.mark.parametrize("how", ["copies", "sender"])
def test_a_deleted_level_is_declared_again_by_the_next_message(
    copies: Copies, vhost: Vhost, arrivals: Callable[..., Arrivals], queues: list[str], exchanges: list[str], how: str
) -> None:
    """By a process that had declared it before, and without a complaint."""
    there = arrivals("q")
    with Sender(vhost.url, timeout=10) as sender:

        def send(name: str) -> None:
            if how == "copies":
                copy(copies, delay=2, name=name)
            else:
                sender.send(name, queue="q", delay=2)

        send("before")
        there.wait(1)
        with vhost.channel() as channel:
            for name in queues:
                channel.queue_delete(name)
            for name in exchanges:
                channel.exchange_delete(name)
        send("after")
    assert there.wait(2)[1][4] == b"after"


def test_what_waits_for_a_queue_that_is_deleted_and_declared_again_arrives(
    copies: Copies, vhost: Vhost, arrivals: Callable[..., Arrivals]
) -> None:
    """Nobody needs to restore a binding: the outbox goes by the queue's name."""
    with vhost.channel() as channel:
        channel.queue_declare("q", durable=True)
        copy(copies, delay=4)
        channel.queue_delete("q")
    assert arrivals("q").wait(1)[0][4] == b"id"


@pytest.mark.parametrize("trouble", ["deleted", "full"])
def test_a_target_that_takes_nothing_holds_up_no_other(
    copies: Copies, vhost: Vhost, arrivals: Callable[..., Arrivals], trouble: str
) -> None:
    """RabbitMQ stops dead-lettering a queue of which 32 messages cannot go on; they wait in an outbox of their own."""
    limit = {"x-max-length": 1, "x-overflow": "reject-publish"} if trouble == "full" else {}
    with vhost.channel() as channel:
        channel.queue_declare("bad", durable=True, arguments=limit)
        for number in range(80):
            copy(copies, "bad", name=str(number))
        if trouble == "deleted":
            channel.queue_delete("bad")
    there = arrivals("good")
    eventually(lambda: vhost.count("wq.delay.0") == 0)
    copy(copies, "good")
    assert there.wait(1)[0][4] == b"id"


def test_a_message_whose_outbox_was_deleted_is_kept_in_sight(copies: Copies, vhost: Vhost) -> None:
    """In a dead queue, with the way it came; and the next message declares the outbox again."""
    with vhost.channel() as channel:
        channel.queue_declare("q", durable=True)
        copy(copies, delay=3, name="astray")
        channel.queue_delete(delays.outbox("q"))
    properties, body = vhost.get(delays.ASTRAY)
    assert (body, properties.message_id) == (b"astray", "astray")
    assert properties.headers["x-death"][0]["routing-keys"][0].endswith(".q")


def test_what_was_declared_is_not_believed_for_ever(broker: Broker, vhost: Vhost) -> None:
    """Nothing tells a publisher that an outbox is gone, so it is declared again now and then."""
    with vhost.channel() as channel:
        channel.queue_declare("q", durable=True)
        now = 1000.0
        levels = Levels(broker, "test", clock=lambda: now)
        assert not levels.ready("q", 1)
        levels.prepare("q", 1)
        assert levels.ready("q", 1)
        assert not levels.ready("q", 2)
        assert not levels.ready("other", 1)
        channel.queue_delete(delays.outbox("q"))
        levels.prepare("q", 1)
        assert vhost.count(delays.outbox("q")) == -1
        now += 61
        assert not levels.ready("q", 1)
        levels.prepare("q", 1)
        assert vhost.count(delays.outbox("q")) == 0


def test_another_queue_needs_its_outbox_only(broker: Broker, vhost: Vhost) -> None:
    """And a longer delay the levels above."""
    with vhost.channel() as channel:
        channel.queue_declare("a", durable=True)
        channel.queue_declare("b", durable=True)
        levels = Levels(broker, "test")
        levels.prepare("a", 3)
        assert levels.ready("a", 1)
        channel.queue_delete("wq.delay.0")
        levels.prepare("b", 3)
        assert levels.ready("b", 3)
        assert vhost.count("wq.delay.0") == -1
        levels.prepare("b", 4)
        assert (vhost.count("wq.delay.0"), vhost.count("wq.delay.2"), vhost.count("wq.delay.3")) == (0, 0, -1)
        assert levels.ready("a", 7)


def test_a_work_queue_that_is_gone_is_no_dead_queue(copies: Copies, vhost: Vhost) -> None:
    """With a delay or without: the worker keeps the message, and makes its queue again in its own way."""
    for delay in (0, 1):
        complaints: list[WorkqueuedError] = []

        def pause(_: float) -> None:
            assert vhost.count("q") == -1
            with vhost.channel() as channel:
                channel.queue_declare("q", durable=True)

        message = Message("q", b"x", Properties(message_id="m"), delay)
        assert copies.send(message, give_up=lambda: False, pause=pause, complain=complaints.append)
        assert [type(error) for error in complaints] == [UnroutableError]
        assert "there is no queue 'q'" in str(complaints[0])
        assert vhost.get("q")[1] == b"x"
        with vhost.channel() as channel:
            channel.queue_delete("q")


# --- a broker in trouble ---


def test_a_delayed_message_survives_a_restart_of_the_broker(mortal_node: Node, mortal: Vhost) -> None:
    """In its level, and in time."""
    with Sender(mortal.url) as sender, mortal.channel() as channel:
        channel.queue_declare("q", durable=True)
        sender.send("first", queue="q", delay=1)
        declared = time.monotonic()
        eventually(lambda: time.monotonic() - declared > 5)  # a quorum queue that was just declared may not survive
        started = time.time()
        ids = [sender.send("x", queue="q", delay=seconds) for seconds in (1, 2, 4, 9)]
    mortal_node.stop()
    mortal_node.start()
    there = Arrivals(mortal, "q")

    def arrived() -> bool:  # some twice, perhaps
        there.settle(0.1)
        return {properties.message_id for _, _, _, properties, _ in there.found} >= set(ids)

    eventually(arrived, within=60)
    assert max(when for _, when, *_ in there.found) >= started + 9
    there.close()


def test_a_retry_is_held_while_an_alarm_lasts_and_then_sent(
    broker: Broker, vhost: Vhost, alarm: Block, arrivals: Callable[..., Arrivals], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The publish is tried again, not the handler; the levels can be declared meanwhile."""
    monkeypatch.setattr(copies_module, "_CONFIRM_WITHIN", 0.5)
    there = arrivals("q")
    copies = Copies(broker, "test")
    complaints: list[WorkqueuedError] = []
    message = Message("q", b"x", Properties(message_id="m"), 1)
    with contextlib.ExitStack() as alarmed:
        alarmed.enter_context(alarm())

        def pause(_: float) -> None:
            if len(blocked()) == 2:
                alarmed.close()

        def blocked() -> list[WorkqueuedError]:  # the first attempt has to declare the levels, and may come too late
            return [error for error in complaints if "blocks publishers" in str(error)]

        assert copies.send(message, give_up=lambda: False, pause=pause, complain=complaints.append)
    copies.close()
    assert len(blocked()) >= 2
    assert there.wait(1)[0][4] == b"x"


# --- no permission, or in the way ---


@pytest.mark.parametrize("missing", ["configure", "write", "read"])
def test_a_missing_permission_is_told_with_all_that_are_needed(
    vhost: Vhost, make_user: MakeUser, wq_send: Send, missing: str
) -> None:
    """Exit 77, and the names as RabbitMQ's pattern wants them."""
    with vhost.channel() as channel:
        channel.queue_declare("q", durable=True)
    url = make_user(f"no_{missing}", **{missing: "^(q|amq.default)$"})
    done = wq_send("--url", url, "--queue", "q", "--delay", "1s", "x")
    assert done.code == os.EX_NOPERM
    assert "no permission for delays (ACCESS_REFUSED" in done.err
    assert r"configure, write and read on wq\.delay\..*, and write on amq.default" in done.err
    assert "rabbitmqctl set_permissions" in done.err
    assert wq_send("--url", url, "--queue", "q", "x").code == (os.EX_OK)


def test_the_permissions_that_are_named_are_enough(vhost: Vhost, make_user: MakeUser, wq_send: Send) -> None:
    """For whoever sends; a worker needs those on its queue as well."""
    with vhost.channel() as channel:
        channel.queue_declare("q", durable=True)
    pattern = rf"^({delays.PERMISSION}|amq\.default)$"
    url = make_user("enough", configure=pattern, write=pattern, read=pattern)
    assert wq_send("--url", url, "--queue", "q", "--delay", "1s", "x").code == os.EX_OK
    assert vhost.get("q")[1] == b"x"


def test_a_permission_that_is_taken_away_is_told_by_the_exchange(
    broker: Broker, vhost: Vhost, make_user: MakeUser
) -> None:
    """When all is declared and only the publish is refused."""
    with vhost.channel() as channel:
        channel.queue_declare("q", durable=True)
    copies = Copies(Broker(url=(BrokerUrl.parse(make_user("taken")),)), "test")
    copy(copies)
    complaints: list[WorkqueuedError] = []
    make_user("taken", write="^$")
    copies.close()  # a channel that published goes on with the permission that it had
    message = Message("q", b"x", Properties(message_id="m"), 1)
    assert not copies.send(message, give_up=lambda: bool(complaints), pause=time.sleep, complain=complaints.append)
    copies.close()
    assert r"the user needs write on wq\.delay\..*" in str(complaints[0])


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("wq.delay.1", {**LEVEL_1, "x-message-ttl": 5}, "x-message-ttl=5, and workqueued needs x-message-ttl=2000"),
        ("wq.delay.1", {}, "=(none|classic), and workqueued needs x-"),
        ("wq.delay.dead", {"x-queue-type": "quorum"}, "x-delivery-limit=none, and workqueued needs x-delivery-limit="),
        ("wq.delay.to.q", {"x-queue-type": "quorum"}, "=none, and workqueued needs x-"),
    ],
    ids=["ttl", "classic", "dead", "outbox"],
)
def test_a_queue_in_the_way_is_shown_against_what_is_needed(
    broker: Broker, vhost: Vhost, name: str, arguments: dict[str, Any], words: str
) -> None:
    """Somebody made a queue of that name, or a version of ours that is to come."""
    with vhost.channel() as channel:
        channel.queue_declare("q", durable=True)
        channel.queue_declare(name, durable=True, arguments=arguments)
    with pytest.raises(QueueRefusedError, match=words) as caught:
        Levels(broker, "test").prepare("q", 3)
    assert caught.match(f"queue {name!r} exists with")
    assert caught.match(f"rabbitmqctl delete_queue {name}")


def test_an_exchange_in_the_way_is_shown_against_what_is_needed(broker: Broker, vhost: Vhost) -> None:
    """It cannot be deleted by rabbitmqctl, so that is not said."""
    with vhost.channel() as channel:
        channel.queue_declare("q", durable=True)
        channel.exchange_declare("wq.delay.1", "direct", durable=True)
    with pytest.raises(QueueRefusedError, match=r"'wq\.delay\.1' exists with type=direct, .* type=topic") as caught:
        Levels(broker, "test").prepare("q", 3)
    assert "delete_queue" not in str(caught.value)


def test_a_level_is_the_one_that_is_documented(broker: Broker, vhost: Vhost) -> None:
    """Other programs, and other versions of ours, may rely on it."""
    with vhost.channel() as channel:
        channel.queue_declare("q", durable=True)
        channel.exchange_declare("wq.delay.0", "topic", durable=True)
        channel.queue_declare("wq.delay.1", durable=True, arguments=LEVEL_1)
    Levels(broker, "test").prepare("q", 3)


def test_levels_can_be_declared_for_a_queue_of_any_kind(vhost: Vhost) -> None:
    """A stranger's queue, whatever its arguments; and declaring twice changes nothing."""
    with vhost.channel() as channel:
        channel.queue_declare("q", durable=False, auto_delete=True, arguments={"x-max-priority": 3})
        declare_levels(channel, "q", 2)
        declare_levels(channel, "q", 2)
        declare_levels(channel, "q", delays.HIGHEST)


# --- Sender ---


def test_a_program_sends_with_a_delay_or_at_a_time(vhost: Vhost, arrivals: Callable[..., Arrivals]) -> None:
    """Seconds, text, timedelta; datetime, text."""
    there = arrivals("q")
    with Sender(vhost.url) as sender:
        moment = datetime.now(UTC) + timedelta(seconds=2.5)
        started = time.time()
        sender.send("1", queue="q", delay=1)
        sender.send("1.0", queue="q", delay=0.2)
        sender.send("1s", queue="q", delay="1s")
        sender.send("timedelta", queue="q", delay=timedelta(seconds=1))
        sender.send("datetime", queue="q", at=moment)
        sender.send("text", queue="q", at=moment.isoformat())
        sender.send("now", queue="q", delay=0)
    found = there.wait(7)
    ((*_, at_once, _),) = [one for one in found if one[4] == b"now"]
    assert not {"x-wq-due-at", "x-death"} & at_once.headers.keys()
    assert {body for *_, body in found[-2:]} == {b"datetime", b"text"}
    for _, when, _, properties, body in found:
        if body == b"now":
            continue
        due = properties.headers["x-wq-due-at"] / 1000
        assert when >= due > started
        if body in {b"datetime", b"text"}:
            assert abs(due - moment.timestamp()) < 0.002


@pytest.mark.parametrize(
    ("when", "words"),
    [
        ({"delay": "soon"}, "delay: 'soon' is no duration"),
        ({"delay": -1}, "delay: -1 is no time to wait"),
        ({"delay": "195d"}, "delay: 195d is too long; the longest delay is 194 days"),
        ({"at": "2020-01-01T00:00:00Z"}, "at: 2020-01-01T00:00:00Z is .* days ago; leave it out to send"),
        ({"at": datetime(2030, 1, 1)}, "at: 2030-01-01 00:00:00 has no offset from UTC"),  # noqa: DTZ001
        ({"at": ""}, "at: '' is no time"),
        ({"delay": 1, "at": "2030-01-01T00:00:00Z"}, "delay and at exclude each other"),
        ({"delay": 1, "expiration": "soon"}, "expiration: found 'soon', expected milliseconds"),
    ],
)
def test_a_delay_that_makes_no_sense_is_refused_before_anything_is_sent(when: dict[str, Any], words: str) -> None:
    """Without a broker."""
    with Sender("amqp://127.0.0.1:1") as sender, pytest.raises(UsageError, match=words):
        sender.send("x", queue="q", **when)


@pytest.mark.parametrize("when", [{"delay": True}, {"at": 5}])
def test_a_delay_of_another_type_is_a_mistake_in_the_program(when: dict[str, Any]) -> None:
    """And says which argument."""
    with Sender("amqp://127.0.0.1:1") as sender, pytest.raises(TypeError, match=f"{next(iter(when))}: found"):
        sender.message("x", queue="q", **when)


def test_what_expires_does_not_expire_while_it_waits(vhost: Vhost) -> None:
    """It has its time from when it is due; as a header, as an expiration would fire in a level."""
    with vhost.channel() as channel:
        channel.queue_declare("q", durable=True)
    with Sender(vhost.url) as sender:
        sender.send("x", queue="q", delay=2, expiration="500")
        sender.send("y", queue="q", delay=0, expiration="60000")
    assert vhost.get("q")[0].expiration == "60000"
    properties, body = vhost.get("q")
    assert (body, properties.expiration) == (b"x", None)
    assert properties.headers["x-wq-expires-at"] == properties.headers["x-wq-due-at"] + 500


def test_a_delayed_message_declares_a_queue_of_the_configuration(make_config: MakeConfig, vhost: Vhost) -> None:
    """As one without a delay does."""
    with Sender(config=make_config("task_queue")) as sender:
        sender.send("x", delay=1)
    assert vhost.get("task_queue")[1] == b"x"


@pytest.mark.parametrize("name", ["nowhere", ""])
def test_a_delayed_message_to_a_queue_that_is_not_there_is_unroutable(vhost: Vhost, wq_send: Send, name: str) -> None:
    """Now, rather than when it is due; in the same words as without a delay."""
    done = wq_send("--url", vhost.url, "--queue", name, "--delay", "1s", "x")
    assert done.code == os.EX_UNAVAILABLE
    assert done.err == wq_send("--url", vhost.url, "--queue", name, "x").err
    assert vhost.count("wq.delay.0") == -1


@pytest.mark.parametrize("name", ["x" * 256, "caf\udce9"])
def test_a_name_that_no_queue_can_have_is_bad_input(vhost: Vhost, name: str) -> None:
    """As without a delay."""
    with Sender(vhost.url) as sender, pytest.raises(DataError):
        sender.send("x", queue=name, delay=1)


# --- wq-send ---


@pytest.fixture
def to(vhost: Vhost) -> list[str]:
    """The arguments that say where to."""
    with vhost.channel() as channel:
        channel.queue_declare("q", durable=True)
    return ["--url", vhost.url, "--queue", "q"]


def test_a_user_says_how_long_or_until_when(to: list[str], wq_send: Send, arrivals: Callable[..., Arrivals]) -> None:
    """A time without an offset is the user's own; `--json` tells when it is due."""
    there = arrivals("q")
    started = time.time()
    moment = datetime.now().astimezone() + timedelta(seconds=5)
    assert wq_send(*to, "--at", moment.isoformat(), "with an offset").code == 0
    assert wq_send(*to, "--at", moment.replace(tzinfo=None).isoformat(), "local").code == 0
    facts = json.loads(wq_send(*to, "--delay", "1s", "--json", "delay").out)
    assert "due_at_ms" not in json.loads(wq_send(*to, "--delay", "0s", "--json", "now").out)
    found = {body.decode(): (when, properties) for _, when, _, properties, body in there.wait(4)}
    assert facts["due_at_ms"] == found["delay"][1].headers["x-wq-due-at"] >= (started + 1) * 1000 - 1
    assert found["delay"][0] * 1000 >= facts["due_at_ms"]
    assert min(found["local"][0], found["with an offset"][0]) >= moment.timestamp()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--delay", "soon"], "--delay: 'soon' is no duration such as"),
        (["--delay=-5s"], "--delay: '-5s' is no duration"),
        (["--delay", "195d"], "--delay: 195d is too long; the longest delay is 194 days"),
        (["--at", "tomorrow"], "--at: 'tomorrow' is no time such as 2026-12-24T18:00:00+01:00"),
        (["--at", "2020-01-01T00:00:00Z"], "days ago; leave it out to send the message now"),
        (["--at", "2999-01-01"], "the longest delay is 194 days"),
        (["--at", "0001-01-01"], "--at: "),
        (["--at", f"{datetime.now(UTC) + timedelta(9):%F}", "--delay", "1s"], "--delay: not allowed with argument"),
    ],
)
def test_a_delay_that_makes_no_sense_is_a_usage_error(
    to: list[str], wq_send: Send, vhost: Vhost, arguments: list[str], words: str
) -> None:
    """64, and nothing was sent."""
    done = wq_send(*to, *arguments, "x")
    assert done.code == os.EX_USAGE
    assert words in done.err
    assert vhost.count("q") == 0


def test_expires_counts_from_when_it_is_due(to: list[str], wq_send: Send, vhost: Vhost) -> None:
    """--expires with --delay."""
    assert wq_send(*to, "--delay", "1s", "--expires", "10m", "x").code == 0
    properties, _ = vhost.get("q")
    assert properties.headers["x-wq-expires-at"] == properties.headers["x-wq-due-at"] + 600_000
    assert properties.expiration is None


def test_a_bulk_may_be_delayed(to: list[str], wq_send: Send, arrivals: Callable[..., Arrivals]) -> None:
    """Every line as long."""
    there = arrivals("q")
    lines = [str(number).encode() for number in range(3000)]
    started = time.time()
    assert wq_send(*to, "--lines", "--delay", "1s", "--quiet", stdin=b"\n".join(lines)).code == 0
    found = there.wait(len(lines), within=40)
    assert sorted(body for *_, body in found) == sorted(lines)
    assert min(when for _, when, *_ in found) >= started + 1


def test_each_line_may_say_when(to: list[str], wq_send: Send, arrivals: Callable[..., Arrivals]) -> None:
    """Keys of an NDJSON object; they go before the options."""
    there = arrivals("q", "other")
    moment = (datetime.now(UTC) + timedelta(seconds=2)).isoformat()
    lines = [
        {"body": "delay", "delay": "1s"}, {"body": "at", "at": moment, "queue": "other"}, {"body": "none"},
        {"body": "now", "delay": "0s"}, {"body": "expires", "delay": "1s", "expires": "1m"},
    ]  # fmt: skip
    text = "\n".join(map(json.dumps, lines)).encode()
    started = time.time()
    assert wq_send(*to, "--ndjson", "--delay", "3s", stdin=text).code == 0
    found = {body.decode(): (when - started, properties) for _, when, _, properties, body in there.wait(5)}
    assert not {"x-wq-due-at", "x-death"} & found["now"][1].headers.keys()
    assert found["delay"][0] >= 1
    assert found["at"][0] >= 1.9
    assert found["none"][0] >= 3
    headers = found["expires"][1].headers
    assert headers["x-wq-expires-at"] == headers["x-wq-due-at"] + 60_000


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"delay": 5}, 'delay: found 5, expected a duration in quotes, such as "10m"'),
        ({"delay": "soon"}, "delay: 'soon' is no duration"),
        ({"at": "2020-01-01T00:00:00Z"}, "at: 2020-01-01T00:00:00Z is "),
        ({"at": "2999-01-01T00:00:00"}, "no offset from UTC"),
        ({"at": 1_800_000_000}, "at: found 1800000000, expected a time in quotes"),
        ({"delay": "1s", "at": "2999-01-01T00:00:00Z"}, "exclude each other"),
        ({"delay": "195d"}, "the longest delay is 194 days"),
    ],
)
def test_a_line_whose_delay_makes_no_sense_is_bad_input(
    to: list[str], wq_send: Send, vhost: Vhost, line: dict[str, Any], words: str
) -> None:
    """65, with its number; what came before it is sent."""
    text = '{"body": "good"}\n' + json.dumps({"body": "bad", **line})
    done = wq_send(*to, "--ndjson", stdin=text.encode())
    assert done.code == os.EX_DATAERR
    assert "line 2: " in done.err
    assert words in done.err
    assert vhost.count("q") == 1


def test_a_bulk_goes_on_when_its_time_has_come(to: list[str], vhost: Vhost) -> None:
    """Lines that are read after `--at` are sent at once."""
    moment = datetime.now().astimezone() + timedelta(seconds=5)
    command = [sys.executable, "-m", "workqueued.cli.send", *to, "--lines", "--at", moment.isoformat()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"early\n")
        process.stdin.flush()
        process.stdout.readline()
        eventually(lambda: time.time() > moment.timestamp())
        process.stdin.write(b"late\n")
        process.stdin.close()
        assert process.wait(20) == 0
    eventually(lambda: vhost.count("q") == 2)


def test_a_single_message_without_a_delay_loads_no_levels(to: list[str]) -> None:
    """Most commands have none, and should start soon."""
    code = (
        "import sys; from workqueued.cli.send import main; code = main(sys.argv[1:]); "
        "late = {'workqueued.delays', 'workqueued.due', 'workqueued.amqp.levels'}; print(late & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code, *to, "-q", "x"], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "set()"


def test_dead_letters_still_go_without_levels(copies: Copies, vhost: Vhost) -> None:
    """A copy without a delay declares nothing of theirs."""
    with vhost.channel() as channel:
        declare_dead_queue(channel, "q.dead")
    copy(copies, "q.dead", 0)
    assert vhost.count("q.dead") == 1
    assert vhost.count("wq.delay.0") == -1


def test_levels_are_found_by_a_worker_after_a_reconnect(broker: Broker, arrivals: Callable[..., Arrivals]) -> None:
    """An idle connection was closed; the next retry goes the same way."""
    there = arrivals("q")
    copies = Copies(dataclasses.replace(broker, heartbeat=2.0), "test")
    copy(copies)
    there.wait(1)
    copies.close()
    copy(copies)
    there.wait(2)
    copies.close()


def test_levels_that_are_deleted_during_a_bulk_end_it_and_the_next_one_goes_on(
    vhost: Vhost, arrivals: Callable[..., Arrivals]
) -> None:
    """What was confirmed before is said; the same sender then declares them again."""
    there = arrivals("q")
    safe: list[str] = []
    with Sender(vhost.url) as sender:

        def messages() -> Iterator[Message]:
            for number in range(20):
                if number == 10:
                    with vhost.channel() as channel:
                        channel.exchange_delete("wq.delay.0")
                yield sender.message(str(number), queue="q", delay=1)

        with pytest.raises(UnroutableError, match=r"the delay levels were deleted on .*'wq\.delay\.0'"):
            safe.extend(sender.send_many(messages()))
        assert 1 <= len(safe) <= 10
        sender.send("after", queue="q", delay=1)
    eventually(lambda: there.settle(0.1) > len(safe) and there.found[-1][4] == b"after")


def test_a_hung_broker_does_not_hold_a_command_beyond_its_timeout(to: list[str], wq_send: Send, paused: Block) -> None:
    """Exit 75, as without a delay."""
    with paused():
        started = time.monotonic()
        assert wq_send(*to, "--delay", "1s", "--timeout", "1s", "x").code == os.EX_TEMPFAIL
        assert time.monotonic() - started < 5
