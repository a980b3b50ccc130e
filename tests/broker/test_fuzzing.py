"""Whatever strangers publish and whatever the commands are fed: done or dead, an answer or an error, none lost."""

import json
import os
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import wire
from harness import Daemon, Vhost, eventually, run_cli
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from workqueued.amqp.consumer import Consumer
from workqueued.amqp.copies import Copies
from workqueued.amqp.topology import declare_dead_queue
from workqueued.broker_settings import Broker
from workqueued.delivery import Message
from workqueued.queue_settings import Queue

Send = Callable[..., Any]

#: The same examples in every run, none kept on disk, and no clock that a slow machine could trip over.
FUZZ = settings(derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))

# --- messages as they are on the wire ---

#: The broker hangs up on a float that is no number, on type U, and on a CC that is no list.
finite = st.floats(allow_nan=False, allow_infinity=False).map(lambda number: b"d" + struct.pack(">d", number))
properties = wire.properties(wire.fixed("tbBusIiLlTDV") | finite, shortest_ms=10**6)
bodies = st.binary(max_size=20) | st.sampled_from((b"", b"sleep 0", b"json {", b"binary", b"retry 0", b"fail x"))


@pytest.fixture(scope="module")
def messages() -> list[tuple[bytes, bytes]]:
    """Properties and bodies, many at once, as a daemon for each would take its time; the same in every run."""
    found: list[tuple[bytes, bytes]] = []

    @settings(FUZZ, max_examples=200, phases=[Phase.generate])
    @given(properties, bodies)
    def collect(encoded: bytes, body: bytes) -> None:
        found.append((encoded, body))

    collect()
    return found


def publish(vhost: Vhost, queue: str, messages: list[tuple[bytes, bytes]]) -> None:
    """Publish properties and bodies; the broker takes every one of them, or it would hang up."""
    with vhost.channel(confirmed=True) as channel:
        for encoded, body in messages:
            channel.basic_publish("", queue, body, wire.Raw(encoded))


def test_whatever_is_published_is_delivered_and_its_copy_arrives(
    broker: Broker, vhost: Vhost, messages: list[tuple[bytes, bytes]]
) -> None:
    """One connection lives through all of them, and so does that of the copies."""
    consumer, copies = Consumer(broker, "q", Queue(handler="a:b", type="classic"), "test"), Copies(broker, "test")
    publish(vhost, "q", messages)
    complaints: list[Any] = []
    consumer.start()
    try:
        for number, (_, body) in enumerate(messages):
            delivery = consumer.next()
            assert delivery is not None
            assert delivery.body == body
            assert all(isinstance(name, str) for name in delivery.properties.headers)
            copy = Message("q.dead", body, delivery.properties)
            if number % 3 == 0:
                assert copies.send(copy, give_up=lambda: False, pause=complaints.append, complain=complaints.append)
            consumer.ack(delivery)
        assert (complaints, vhost.count("q.dead")) == ([], len(messages[::3]))
    finally:
        consumer.close()
        copies.close()


def test_whatever_is_published_ends_done_or_dead_and_the_workers_live(
    daemon: Callable[..., Daemon], vhost: Vhost, messages: list[tuple[bytes, bytes]]
) -> None:
    """Each once; what is dead is listed, shown, exported without loss, and replayed."""
    with daemon({"task_queue": {"handler": "ledgers:by_word", "workers": 2, "retry": {"attempts": 1}}}) as running:
        running.consuming(2)
        publish(vhost, "task_queue", messages)
        running.await_event("delivery.settled", len(messages), within=60)
        ended = [event["outcome"] for event in running.events("delivery.settled")]
        assert set(ended) == {"done", "dead"}
        eventually(lambda: vhost.count("task_queue.dead") == ended.count("dead"))
        assert vhost.count("task_queue") == 0
        assert len(running.events("worker.consuming")) == 2
        assert [event for event in running.events() if event["event"] in ("worker.died", "copy.delayed")] == []
    check_dead_letters(vhost, ended.count("dead"))


def check_dead_letters(vhost: Vhost, count: int) -> None:
    """What wq-dead does with them."""
    listed = [json.loads(line) for line in dead(vhost, "list", "--json")]
    assert len(listed) == count
    shown = [letter["id"] for letter in listed if re.fullmatch(r"\w{3,}\S*", letter["id"])]
    for identity in shown[:: len(shown) // 3]:
        assert json.loads(dead(vhost, "show", "--json", identity)[0])["id"] == identity
    exported = dead(vhost, "export")
    assert len(exported) == count
    with vhost.channel() as channel:
        channel.queue_declare("other", durable=True)
        declare_dead_queue(channel, "other.dead")
    dead(vhost, "import", queue="other", stdin="\n".join(exported).encode())
    assert dead(vhost, "export", queue="other") == exported
    dead(vhost, "replay", "--all", "--yes", "--to", "other")
    assert (vhost.count("other"), vhost.count("task_queue.dead")) == (count, 0)


def dead(vhost: Vhost, *arguments: str, queue: str = "task_queue", stdin: bytes = b"") -> list[str]:
    """The lines that wq-dead prints; it must succeed, and have no doubts."""
    done = run_cli("dead", "--url", vhost.url, "--queue", queue, *arguments, stdin=stdin)
    assert (done.returncode, done.stderr) == (0, ""), arguments
    return done.stdout.removesuffix("\n").split("\n") if done.stdout else []


# --- lines for wq-send and wq-dead ---

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=4) | st.sampled_from(wire.NAMES), inner, max_size=3),
)
#: What is no JSON to everybody, or more than Python takes.
EXTREMES = (
    b"1e999", b"9" * 5000, b"[" * 5000, b"NaN", b'"\\ud800"', b'"\xff"', b'{"$decimal":"1e999"}', b'{"$timestamp":-1}',
)  # fmt: skip
KEYS = ("type", "message_id", "content_type", "correlation_id", "reply_to", "priority", "headers")
good = st.dictionaries(st.text(max_size=4), st.text(max_size=4) | st.booleans() | st.none(), max_size=2).map(
    lambda headers: json.dumps({"body": "x", "headers": headers}).encode()
)
odd = (
    st.binary(max_size=20)
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.builds(lambda key, value: json.dumps({"body": "x", key: value}).encode(), st.sampled_from(KEYS), json_values)
    | st.builds(
        lambda key, extreme: b'{"body": "x", "headers": {"h": {"%s": %s}}}' % (key, extreme),
        st.sampled_from((b"a", b"$object")),
        st.sampled_from(EXTREMES),
    )
    | st.sampled_from(EXTREMES).map(lambda extreme: b'{"body": %s}' % extreme)
    | st.sampled_from((b'{"body":"x","expiration":"315360000001"}', b'{"body":"x","queue":"missing"}', b"", b" "))
)
inputs = st.lists(good, max_size=3).flatmap(lambda before: st.lists(odd, max_size=2).map(lambda after: before + after))


@pytest.fixture
def count(vhost: Vhost) -> Iterator[Callable[[str], int]]:
    """Tells how many messages there are in `q` or in `q.dead`."""
    with vhost.channel() as channel:
        channel.queue_declare("q", durable=True)
        declare_dead_queue(channel, "q.dead")
        yield lambda queue: int(channel.queue_declare(queue, passive=True).method.message_count)


@settings(FUZZ, max_examples=150)
@given(lines=inputs, mode=st.sampled_from(("--ndjson", "--ndjson", "--lines")))
def test_wq_send_prints_an_id_for_each_line_that_is_safe_and_tells_what_is_wrong_with_the_next(
    count: Callable[[str], int], vhost: Vhost, wq_send: Send, lines: list[bytes], mode: str
) -> None:
    """Whatever the lines are."""
    before = count("q")
    done = wq_send("--url", vhost.url, "--queue", "q", "--json", mode, stdin=b"\n".join(lines))
    assert done.code in (0, os.EX_DATAERR, os.EX_UNAVAILABLE)
    assert (done.err == "") == (done.code == 0)
    assert all(line.startswith("wq-send: ") and line.isprintable() for line in done.err.split("\n")[:-1])
    assert count("q") - before == len(done.ids)
    if done.code == os.EX_DATAERR:
        assert re.match(r"wq-send: line \d+: ", done.err)


@settings(FUZZ, max_examples=12)
@given(lines=inputs)
@example([b'{"body":"x"}', b'{"body":"x","expiration":"315360000001"}'])
@example([b'{"body":"x"}', b'{"body":"x","headers":{"a":[1e999]}}'])
def test_wq_dead_import_takes_the_lines_up_to_the_one_that_is_wrong(
    count: Callable[[str], int], vhost: Vhost, tmp_path: Path, capfd: pytest.CaptureFixture[str], lines: list[bytes]
) -> None:
    """And names it; what came before it is in the dead queue, each once."""
    from workqueued.cli.dead import main  # noqa: PLC0415

    before = count("q.dead")
    (tmp_path / "lines").write_bytes(b"\n".join(lines))
    code = main(["--url", vhost.url, "--queue", "q", "import", "--json", "--file", str(tmp_path / "lines")])
    out, err = capfd.readouterr()
    if code == 0:
        assert json.loads(out)["imported"] == count("q.dead") - before
        assert err == ""
        return
    assert code == os.EX_DATAERR
    assert all(line.startswith("wq-dead: ") and line.isprintable() for line in err.split("\n")[:-1])
    wrong = re.match(r"wq-dead: line (\d+): ", err)
    assert wrong is not None
    right = [line for line in b"\n".join(lines).split(b"\n")[: int(wrong[1]) - 1] if line.strip()]
    assert count("q.dead") - before == len(right)
