"""`wq-dead` when something goes wrong: killed, stopped, cut off, refused; nothing is ever lost."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pika
import pytest
from harness import Vhost, eventually, run_cli

from workqueued.amqp import deadletters
from workqueued.amqp import look as looking
from workqueued.amqp.deadletters import DeadQueue, lock_name
from workqueued.amqp.replay import Replay
from workqueued.amqp.topology import declare_dead_queue
from workqueued.broker_settings import Broker
from workqueued.cli.dead import main
from workqueued.errors import ConnectionLostError, QueueRefusedError
from workqueued.letters import replayed
from workqueued.node import Node

#: RabbitMQ 3.10 loses a quorum queue that was declared less than two seconds before it is killed, seconds.
_OLD_ENOUGH = 3

Block = Callable[[], AbstractContextManager[None]]
Make = Callable[..., Any]


@pytest.fixture
def box(vhost: Vhost) -> Vhost:
    """A vhost with the work queue `work` and its dead queue, both empty."""
    declare(vhost)
    return vhost


def declare(vhost: Vhost) -> None:
    """A work queue and its dead queue."""
    with vhost.channel() as channel:
        channel.queue_declare("work", durable=True, arguments={"x-queue-type": "quorum"})
        declare_dead_queue(channel, "work.dead")


def fill(vhost: Vhost, count: int, **properties: Any) -> None:
    """Put letters into the dead queue; body and id are their numbers."""
    before = vhost.count("work.dead")
    with vhost.channel() as channel:
        for number in range(count):
            told = {"headers": {"x-wq-reason": "failed", "x-wq-error": "x"}, **properties}
            basic = pika.BasicProperties(message_id=f"letter-{number:06}", delivery_mode=2, **told)
            channel.basic_publish("", "work.dead", str(number).encode(), basic)
        # Before the channel is closed: with it goes what a quorum queue has not taken yet.
        eventually(lambda: vhost.count("work.dead") == before + count, within=30)


def bodies(vhost: Vhost, queue: str) -> list[bytes]:
    """Take everything out of a queue."""
    found = []
    with vhost.channel() as channel:
        while (one := channel.basic_get(queue, auto_ack=True))[0]:
            found.append(one[2])
    return found


def dead(vhost: Vhost, verb: str, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    """Run wq-dead for the queue `work`."""
    return run_cli("dead", "--url", vhost.url, verb, "--queue", "work", *arguments, stdin=stdin)


@contextlib.contextmanager
def running(vhost: Vhost, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """wq-dead in the background for the length of the block."""
    command = [sys.executable, "-m", "workqueued.cli.dead", "--url", vhost.url, "--queue", "work", *arguments]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


# --- killed, stopped ---


@pytest.mark.parametrize("verb", [["replay", "--all", "--yes"], ["list"], ["replay", "--reason", "failed", "--yes"]])
def test_killed_at_any_moment_it_loses_nothing(box: Vhost, verb: list[str]) -> None:
    """Six times, at another moment each: every message is in the work queue or in the dead queue, or in both."""
    fill(box, 3000)
    chance = random.Random(7)
    for _ in range(6):
        before = box.count("work")
        with running(box, *verb) as process:
            if verb[0] == "replay" and box.count("work.dead"):
                some = chance.randrange(1, 300)
                eventually(lambda: box.count("work") >= before + some or process.poll() is not None)  # noqa: B023
            else:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(chance.random())
            os.kill(process.pid, signal.SIGKILL)
    # When the last one's connection is gone, so is its lock, and what it held is back.
    assert eventually(lambda: dead(box, "stats").returncode == 0)
    everything = bodies(box, "work") + bodies(box, "work.dead")
    assert {int(body) for body in everything} == set(range(3000))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_says_what_was_done_and_leaves_the_rest(box: Vhost, number: signal.Signals, code: int) -> None:
    """Nothing is on its way when it ends: what it says is exact."""
    fill(box, 500)
    with running(box, "replay", "--all", "--yes", "--rate", "100", "--json") as process:
        eventually(lambda: box.count("work") >= 20, within=30)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert process.returncode == code
    told = json.loads(out)
    assert told["unknown"] == 0
    assert f"stopped by {number.name}; the rest is untouched" in err
    eventually(lambda: box.count("work.dead") == 500 - told["replayed"])
    assert box.count("work") == told["replayed"] >= 20


def test_ctrl_c_during_a_list_is_quiet(box: Vhost) -> None:
    """No traceback, 130."""
    fill(box, 3000)
    with running(box, "list", "--json") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.startswith("wq-dead: interrupted")
    assert "Traceback" not in err


# --- two at once ---


def test_two_at_once_are_refused(box: Vhost, broker: Broker) -> None:
    """Whatever they are to do; afterwards the way is free."""
    fill(box, 3)
    with DeadQueue(broker, "work.dead"):
        for verb in (["list"], ["replay", "--all", "--yes"], ["discard", "--all", "--yes"], ["export"], ["stats"]):
            done = dead(box, *verb)
            assert (done.returncode, done.stdout) == (os.EX_TEMPFAIL, "")
            assert "another wq-dead is at 'work.dead'" in done.stderr
        assert dead(box, "import", stdin=b'{"body":""}').returncode == os.EX_TEMPFAIL
    assert dead(box, "list").returncode == 0
    assert box.count("work.dead") == 3


def test_another_queue_has_another_lock(broker: Broker, box: Vhost) -> None:
    """Also where the name is too long to have something added to it."""
    with DeadQueue(broker, "work.dead"), DeadQueue(broker, "x" * 255):
        pass
    assert lock_name("work.dead") == "work.dead.lock"
    assert len(lock_name("x" * 255)) < 60
    assert lock_name("x" * 255) != lock_name("y" * 255)


def test_somebody_else_s_consumer_is_mentioned(box: Vhost, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    """What it holds is not seen, and must not look as if it were not there."""
    monkeypatch.setattr(deadletters, "_BACK_WITHIN", 0.1)
    fill(box, 5)
    with box.channel() as channel:
        channel.basic_qos(prefetch_count=2)
        channel.basic_consume("work.dead", lambda *_: None)
        eventually(lambda: box.count("work.dead") == 3)
        assert main(["--url", box.url, "--queue", "work", "stats"]) == 0
    out, err = capfd.readouterr()
    assert out == "3  failed\n"
    assert "somebody else consumes from work.dead" in err


# --- the work queue does not take it ---


def test_without_the_work_queue_everything_stays(box: Vhost) -> None:
    """69, and the reason; the others go their way."""
    fill(box, 5, headers={"x-wq-queue": "gone"})
    fill(box, 2)
    done = dead(box, "replay", "--all", "--yes")
    assert done.returncode == os.EX_UNAVAILABLE
    assert done.stdout == "replayed 2 messages of work.dead\n"
    assert "5 messages could not be replayed and are still in work.dead" in done.stderr
    assert "letter-000000 stays: there is no queue 'gone'" in done.stderr
    assert (box.count("work"), box.count("work.dead")) == (2, 5)


def test_a_full_work_queue_takes_what_it_can(box: Vhost, node: Node) -> None:
    """overflow: reject-publish. 75, and the rest stays."""
    limit = json.dumps({"max-length": 10, "overflow": "reject-publish"})
    node.ctl("set_policy", "--vhost", box.name, "full", "^work$", limit)
    fill(box, 3000)
    done = dead(box, "replay", "--all", "--yes")
    assert done.returncode == os.EX_TEMPFAIL
    assert "it is full" in done.stderr
    moved = int(done.stdout.split()[1])
    assert 10 <= moved < 3000
    assert box.count("work") == moved
    eventually(lambda: box.count("work.dead") == 3000 - moved)


def test_an_alarm_stops_a_replay_and_nothing_is_lost(box: Vhost, alarm: Block) -> None:
    """75, with the broker's reason; acks are on another connection and go on."""
    fill(box, 50)
    with alarm():
        done = dead(box, "replay", "--all", "--yes", "--timeout", "5s")
        assert done.returncode == os.EX_TEMPFAIL
        assert "blocks publishers (low on memory)" in done.stderr
        assert done.stdout == "replayed 0 messages of work.dead\n"
        assert "50 more may be replayed, or not" in done.stderr
        assert "still in the dead queue" in done.stderr
    eventually(lambda: box.count("work.dead") == 50)
    assert dead(box, "replay", "--all", "--yes").returncode == 0
    assert {int(body) for body in bodies(box, "work")} == set(range(50))


@pytest.fixture
def small_messages(node: Node) -> Iterator[int]:
    """A broker that from now on takes no message of more than so many bytes; on 4.0 the size is a persistent term."""
    most = 65_536
    value = node.ctl("eval", "application:get_env(rabbit, max_message_size, 134217728).").strip().strip("{}ok,")
    change = "application:set_env(rabbit, max_message_size, {0}), persistent_term:put(max_message_size, {0})."
    yield most
    node.ctl("eval", change.format(value))


def test_a_message_that_has_become_too_large_stays_and_the_others_go(
    box: Vhost, node: Node, small_messages: int
) -> None:
    """After an upgrade to a broker that takes less. 65, and its id."""
    with box.channel(confirmed=True) as channel:
        for number in range(300):
            body = bytes(small_messages + 1 + number) if number in (50, 51, 200) else b"x"
            channel.basic_publish("", "work.dead", body, pika.BasicProperties(message_id=str(number)))
    eventually(lambda: box.count("work.dead") == 300)
    change = "application:set_env(rabbit, max_message_size, {0}), persistent_term:put(max_message_size, {0})."
    node.ctl("eval", change.format(small_messages))
    done = dead(box, "replay", "--all", "--yes")
    assert done.returncode == os.EX_DATAERR
    assert "3 messages could not be replayed" in done.stderr
    assert f"50 stays: the message has {small_messages + 51} bytes and this broker takes at most" in done.stderr
    assert (box.count("work.dead"), done.stdout) == (3, "replayed 297 messages of work.dead\n")
    assert set(bodies(box, "work")) == {b"x"}


def test_headers_that_would_not_fit_any_more_are_left_out_and_named(box: Vhost) -> None:
    """The broker's own letters may fill a frame to its last byte, and a replay adds a header to them."""
    for headers in ({"big": "x" * 130_900}, {"big": {"a": "x" * 130_880}}):
        with box.channel(confirmed=True) as channel:
            channel.basic_publish("", "work.dead", b"", pika.BasicProperties(headers=headers, delivery_mode=2))
        eventually(lambda: box.count("work.dead") == 1)
        assert dead(box, "replay", "--all", "--yes").stdout == "replayed 1 message of work.dead\n"
        properties, _ = box.get("work")
        assert properties.headers["x-wq-headers-left-out"] == "big"
        assert "big" not in properties.headers


# --- the broker ---


def test_a_connection_that_is_lost_says_how_far_it_came(box: Vhost, node: Node) -> None:
    """75; what is not reported is still in the dead queue."""
    fill(box, 3000)
    with running(box, "replay", "--all", "--yes", "--rate", "200") as process:
        eventually(lambda: box.count("work") >= 50, within=30)
        node.ctl("close_all_connections", "--vhost", box.name, "test")
        out, err = process.communicate(timeout=60)
    assert process.returncode == os.EX_TEMPFAIL
    assert "closed by the broker: 320" in err or "it broke" in err
    assert int(out.split()[1]) >= 50
    assert eventually(lambda: dead(box, "stats").returncode == 0)
    everything = bodies(box, "work") + bodies(box, "work.dead")
    assert {int(body) for body in everything} == set(range(3000))


def test_a_broker_that_is_killed_in_the_middle_has_everything(mortal: Vhost, mortal_node: Node) -> None:
    """Killed with -9 and started again: each message is in one of the two queues, or in both."""
    declare(mortal)
    fill(mortal, 2000)
    time.sleep(_OLD_ENOUGH)  # nothing to wait for: see the constant
    with running(mortal, "replay", "--all", "--yes", "--rate", "1000") as process:
        eventually(lambda: mortal.count("work") >= 100, within=30)
        mortal_node.kill()
        _, err = process.communicate(timeout=60)
    assert process.returncode == os.EX_TEMPFAIL
    assert "Traceback" not in err
    mortal_node.start()
    eventually(lambda: mortal.count("work") + mortal.count("work.dead") >= 2000, within=30)
    everything = bodies(mortal, "work") + bodies(mortal, "work.dead")
    assert {int(body) for body in everything} == set(range(2000))


def test_a_dead_queue_that_is_deleted_under_a_look_is_an_error(box: Vhost, broker: Broker) -> None:
    """By itself pika would wait for ever without a word."""
    fill(box, 3000)
    with DeadQueue(broker, "work.dead") as queue:
        look = queue.look(bodies=False)
        for letter in look.take(5):
            look.hold(letter)
        with box.channel() as channel:
            channel.queue_delete("work.dead")

        def deleted() -> str:
            try:
                for letter in look.take(0.2):
                    look.hold(letter)
            except (ConnectionLostError, QueueRefusedError) as error:
                return str(error)
            return ""

        assert "work.dead" in eventually(deleted)


def test_without_permission_it_says_what_is_missing(box: Vhost, make_user: Make) -> None:
    """77: to lock, to read, to publish."""
    fill(box, 1)
    for rights, words in (
        ({"configure": "^$"}, "needs configure on 'work.dead.lock'"),
        ({"read": "^$"}, "ACCESS_REFUSED"),
        ({"write": "^$"}, "write on amq.default"),
    ):
        url = make_user("limited", **rights)
        done = run_cli("dead", "--url", url, "--queue", "work", "replay", "--all", "--yes")
        assert done.returncode == os.EX_NOPERM, rights
        assert words in done.stderr
        assert "Traceback" not in done.stderr
    assert box.count("work.dead") == 1
    url = make_user("limited", configure=r"^work\.dead\.lock$")
    assert run_cli("dead", "--url", url, "--queue", "work", "replay", "--all", "--yes").returncode == 0


@pytest.mark.parametrize("name", ["", "q" * 300, "\udcff"])
def test_what_can_be_no_queues_name_exits_64(name: str) -> None:
    """With what would be one; nobody is asked."""
    done = run_cli("dead", "--url", "amqp://127.0.0.1:1", "--queue", name, "list")
    assert done.returncode == os.EX_USAGE
    assert done.stderr.startswith("wq-dead: --queue: ")


def test_a_broker_that_is_away_exits_75(vhost: Vhost) -> None:
    """And a wrong password 77; neither shows the password."""
    done = run_cli("dead", "--url", "amqp://guest:s3cr3t@127.0.0.1:1", "--queue", "work", "list")
    assert (done.returncode, "s3cr3t" in done.stderr) == (os.EX_TEMPFAIL, False)
    done = run_cli("dead", "--url", vhost.url.replace(":guest@", ":s3cr3t@"), "--queue", "work", "list")
    assert (done.returncode, "s3cr3t" in done.stderr) == (os.EX_NOPERM, False)


# --- the engine ---


def test_a_pass_that_takes_too_long_begins_anew_and_replays_nothing_twice(
    box: Vhost, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    """The broker takes back after 30 minutes what is not acknowledged, so before that we give it back ourselves.

    What has died again meanwhile is not replayed again.
    """
    monkeypatch.setattr(looking, "LONGEST_HOLD", 0.3)
    fill(box, 60)
    fill(box, 40, headers={"x-wq-reason": "timeout"})
    again = 0
    original = Replay._settle

    def die_again(self: Replay, look: Any) -> None:
        nonlocal again
        before = self.moved
        original(self, look)
        if self.moved > before and again < 5:
            again += 1
            dies = replayed_letter(f"again-{again}")
            box.publish("work.dead", b"again", message_id=dies.message_id, headers=dict(dies.headers))

    monkeypatch.setattr(Replay, "_settle", die_again)
    arguments = ["--url", box.url, "--queue", "work", "replay", "--reason", "failed", "--yes", "--rate", "40"]
    assert main(arguments) == 0
    out, _ = capfd.readouterr()
    assert out == "replayed 60 messages of work.dead\n"
    assert sorted(int(body) for body in bodies(box, "work")) == list(range(60))
    assert sorted(bodies(box, "work.dead")) == sorted([b"again"] * 5 + [str(number).encode() for number in range(40)])


def replayed_letter(message_id: str) -> Any:
    """The properties of a message that was replayed just now and has failed again."""
    from workqueued.delivery import Properties  # noqa: PLC0415
    from workqueued.letters import Letter  # noqa: PLC0415

    letter = Letter(1, message_id, Properties(message_id=message_id), 0, b"")
    properties = replayed(letter, "work", 2**33).properties  # marked far in the future: surely after the start
    return properties._replace(headers={**properties.headers, "x-wq-reason": "failed"})


def test_consumers_that_take_over_from_each_other_keep_the_order(box: Vhost, broker: Broker) -> None:
    """RabbitMQ 3.10 gives back what consumers held in the order of their tags, and ours have them in order."""
    fill(box, 1050)
    expected = [f"letter-{number:06}" for number in range(1050)]
    with DeadQueue(broker, "work.dead") as queue:
        for _ in range(3):
            look = queue.look(bodies=False, prefetch=40)
            seen = []
            while not look.ended:
                for letter in look.take(0.2):
                    look.hold(letter)
                    seen.append(letter.identity)
            look.finish()
            assert seen == expected
            assert box.count("work.dead") == 1050


def test_acks_out_of_order_take_out_exactly_what_they_name(box: Vhost, broker: Broker) -> None:
    """One ack may stand for many, as long as nothing before it stays."""
    fill(box, 40)
    with DeadQueue(broker, "work.dead") as queue:
        look = queue.look(bodies=False)
        letters = []
        while not look.ended:
            letters += look.take(0.2)
        for group in ([3, 1], [0], [2, 5], [4, 9, 7], [6]):
            for number in group:
                look.ack(letters[number])
            look.flush()
        look.hold(letters[8])
        for number in (12, 10, 39):
            look.ack(letters[number])
        look.finish()
    left = [8, 11, *range(13, 39)]
    assert bodies(box, "work.dead") == [str(number).encode() for number in left]


def test_a_slow_reader_does_not_cost_the_connection(box: Vhost, make_config: Make) -> None:
    """`wq-dead list | less`, and a page that is read for longer than two heartbeats."""
    fill(box, 3000)
    config = str(make_config("work", heartbeat="2s"))
    command = [sys.executable, "-m", "workqueued.cli.dead", "--config", config, "list", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        first = process.stdout.read(10)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(9)
        rest = process.stdout.read()
        assert process.stderr.read() == b""
    assert process.returncode == 0
    assert len((first + rest).splitlines()) == 3000


def test_a_queue_whose_leader_is_busy_is_not_said_to_be_empty(box: Vhost, broker: Broker, node: Node) -> None:
    """RabbitMQ gives a quorum queue's leader a quarter of a second, then says 0 in its place."""
    fill(box, 20)
    eventually(lambda: box.count("work.dead") == 20)
    found = f'Name <- registered(), lists:suffix("{box.name}_work.dead", atom_to_list(Name))'
    with DeadQueue(broker, "work.dead") as queue:
        awake = "spawn(fun() -> timer:sleep(3000), sys:resume(Name) end)"
        assert node.ctl("eval", f"length([begin sys:suspend(Name), {awake} end || {found}]).").strip() == "1"
        assert queue.counts() == (0, 0)
        assert queue.settled() == (20, False)
