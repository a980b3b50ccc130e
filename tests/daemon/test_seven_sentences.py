"""The seven sentences of the tutorial that workqueued grew out of, each a promise on a real broker."""

import itertools
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pika
import pytest
from harness import Daemon, Event, Vhost, alive, eventually, run_cli

from workqueued.node import Node

Daemons = Callable[..., Daemon]
#: RabbitMQ loses a quorum queue that was declared within 2 s before kill -9 (rabbitmq-server#15725).
_OLD_ENOUGH = 5.0


def ledger_queue(workers: int = 2, **settings: Any) -> dict[str, Any]:
    """A task_queue whose handler writes a ledger."""
    return {"task_queue": {"handler": "ledgers:work", "workers": workers, **settings}}


def spans(daemon: Daemon) -> list[tuple[Event, Event]]:
    """(started, finished) of each task in the ledger."""
    ends = {entry["body"]: entry for entry in daemon.ledger() if entry["what"] == "finished"}
    return [(entry, ends[entry["body"]]) for entry in daemon.started() if entry["body"] in ends]


def await_starts(daemon: Daemon, number: int) -> list[Event]:
    """So many beginnings in the ledger."""
    eventually(lambda: len(daemon.started()) >= number)
    return daemon.started()


def makespan(daemon: Daemon, part: str) -> float:
    """Seconds from the first start to the last finish of those whose body has this part."""
    pairs = [(start, end) for start, end in spans(daemon) if part in start["body"]]
    return float(max(end["at"] for _, end in pairs) - min(start["at"] for start, _ in pairs))


# 1. Several workers share one queue round-robin; when a backlog builds up, adding workers is all it takes.


def test_several_workers_share_one_queue_round_robin(daemon: Daemons, vhost: Vhost) -> None:
    """Eight equal messages over four workers: two for each."""
    with daemon(ledger_queue(4, handler="ledgers:by_word")) as running:
        running.consuming(4)
        gates = [running.directory / "first", running.directory / "second"]
        vhost.publish("task_queue", *(f"wait {gates[number // 4]} task{number}" for number in range(8)))
        for begun, gate in zip((4, 8), gates, strict=True):  # no worker is so slow that another takes its part
            started = await_starts(running, begun)
            gate.touch()
        running.await_event("delivery.settled", 8)
        assert sorted(Counter(start["pid"] for start in started).values()) == [2, 2, 2, 2]


def test_adding_workers_is_all_it_takes_when_a_backlog_builds_up(daemon: Daemons, vhost: Vhost) -> None:
    """Edit `workers:`, send SIGHUP: more workers at once on the same backlog, no message lost or repeated."""
    with daemon(ledger_queue(1)) as running:
        running.consuming(1)
        vhost.publish("task_queue", *(f"0.2 task{number}" for number in range(24)))
        running.await_event("delivery.settled", 2)
        running.write(queues=ledger_queue(4))
        running.signal(signal.SIGHUP)
        running.await_event("delivery.settled", 24)
        assert sorted(running.done()) == sorted(f"0.2 task{number}" for number in range(24))
        assert len({entry["pid"] for entry in running.ledger()}) >= 4


# 2. A worker takes one message at a time: the idle worker gets the next message.


def test_a_worker_takes_one_message_at_a_time(daemon: Daemons, vhost: Vhost) -> None:
    """No two tasks of one worker overlap, and what it has not begun is ready for others."""
    with daemon(ledger_queue(1, handler="ledgers:by_word")) as running:
        running.consuming(1)
        gate = running.directory / "gate"
        vhost.publish("task_queue", f"wait {gate}", "sleep 0 second", "sleep 0 third")
        eventually(running.ledger)
        assert vhost.count("task_queue") == 2
        gate.touch()
        running.await_event("delivery.settled", 3)


def test_heavy_and_light_messages_alternating_go_to_the_idle_worker(daemon: Daemons, vhost: Vhost) -> None:
    """Round-robin regardless of load would give one worker all the heavy ones: makespan within 10 % of the ideal."""
    heavy, light, pairs = 0.5, 0.01, 8
    ideal = pairs * (heavy + light) / 2
    found = []
    with daemon(ledger_queue(2)) as running:
        running.consuming(2)
        for turn in range(3):  # a machine that stands still makes it longer, and nothing makes it shorter
            vhost.publish("task_queue", *(f"{[heavy, light][n % 2]} task{turn}.{n}" for n in range(2 * pairs)))
            running.await_event("delivery.settled", 2 * pairs * (turn + 1))
            found.append(makespan(running, f" task{turn}."))
            if found[-1] <= 1.1 * ideal + heavy / 10:
                return
    pytest.fail(f"{ideal} s would be ideal: {found}")


def test_a_slow_worker_does_not_hold_messages_that_a_fast_one_could_do(daemon: Daemons, vhost: Vhost) -> None:
    """While one worker is busy with a long task, the other does all the rest."""
    with daemon(ledger_queue(2, handler="ledgers:by_word")) as running:
        running.consuming(2)
        slow = f"wait {running.directory / 'gate'}"
        vhost.publish("task_queue", slow, *(f"sleep 0 quick{number}" for number in range(40)))
        running.await_event("delivery.settled", 40)
        (running.directory / "gate").touch()
        running.await_event("delivery.settled", 41)
        assert running.done()[-1] == slow
        busy = next(entry["pid"] for entry in running.ledger() if entry["body"] == slow)
        assert all(entry["pid"] != busy for entry in running.ledger() if entry["body"] != slow)


# 3. A message is acknowledged only when its handler has finished.


def test_killing_a_worker_in_mid_task_gives_its_message_to_another_at_once(daemon: Daemons, vhost: Vhost) -> None:
    """Kill -9: the other worker has the message at once, and a replacement consumes within a second."""
    with daemon(ledger_queue(2)) as running:
        running.consuming(2)
        vhost.publish("task_queue", "2 precious", message_id="m")
        victim = eventually(running.ledger)[0]["pid"]
        os.kill(victim, signal.SIGKILL)
        killed_at = time.monotonic()
        second = eventually(lambda: [e for e in running.ledger() if e["pid"] != victim], within=5)[0]
        assert second["redelivered"]
        assert second["at"] - killed_at < 1.0
        replacement = running.await_event("worker.consuming", 3, within=5)
        died = running.await_event("worker.died", signal="SIGKILL", pid_died=victim)
        assert died["slot"] == replacement["slot"]
        assert died["message_id"] == running.ledger()[0]["id"] == "m"
        settled = running.await_event("delivery.settled", outcome="done")
        assert settled["redelivered"] is True
        assert vhost.count("task_queue.dead") == 0


def test_an_unfinished_message_is_not_acknowledged(daemon: Daemons, vhost: Vhost) -> None:
    """When all of workqueued dies in mid-task, the message is back in the queue."""
    with daemon(ledger_queue(1)) as running:
        running.consuming(1)
        vhost.publish("task_queue", "30 long")
        eventually(running.ledger)
        assert vhost.count("task_queue") == 0
        os.killpg(running.pid, signal.SIGKILL)
        eventually(lambda: vhost.count("task_queue") == 1)


# 4. Queue and messages are durable: they survive a broker restart.


@pytest.mark.parametrize("queue_type", ["quorum", "classic"])
@pytest.mark.parametrize("ending", ["stop", "kill"])
def test_queue_and_messages_survive_a_broker_restart(
    daemon: Daemons, mortal: Vhost, mortal_node: Node, queue_type: str, ending: str
) -> None:
    """Everything that wq-send reported is done after the broker came back, by workers that came back by themselves."""
    # paused first: the messages wait in the queue while the broker goes down
    running = daemon(ledger_queue(2, type=queue_type, paused=True), url=mortal)
    with running:
        body = b"".join(b"0 task%d\n" % number for number in range(50))
        sent = run_cli("send", "--config", str(running.file), "--lines", stdin=body)
        assert sent.returncode == 0, sent.stderr
        assert len(sent.stdout.split()) == 50
        time.sleep(_OLD_ENOUGH)  # nothing to wait for: see the constant
        getattr(mortal_node, ending)()
        running.await_event("queue.depth", level="warning", within=30)
        mortal_node.start()
        running.write(queues=ledger_queue(2, type=queue_type))
        running.signal(signal.SIGHUP)
        running.await_event("delivery.settled", 50, within=30)
        assert set(running.done()) == {f"0 task{number}" for number in range(50)}


@pytest.mark.parametrize("ending", ["stop", "kill"])
def test_workers_in_mid_task_survive_a_broker_restart(
    daemon: Daemons, mortal: Vhost, mortal_node: Node, ending: str
) -> None:
    """They finish, find their connection gone, drop the late verdict, and the message is handled again."""
    with daemon(ledger_queue(2, handler="ledgers:by_word"), url=mortal) as running:
        running.consuming(2)
        time.sleep(_OLD_ENOUGH)
        gate = running.directory / "gate"
        mortal.publish("task_queue", f"wait {gate}")
        eventually(running.ledger)
        getattr(mortal_node, ending)()
        mortal_node.start()
        gate.touch()
        running.await_event("delivery.lost", within=30)
        running.await_event("delivery.settled", outcome="done", redelivered=True, within=30)
        running.await_event("worker.consuming", 4, within=30)
        mortal.publish("task_queue", "sleep 0")
        running.await_event("delivery.settled", 2)
        assert running.stop() == 0


# 5. A queue cannot be redeclared with other arguments.

MISMATCHES: list[tuple[str, dict[str, Any], dict[str, Any], list[str]]] = [
    ("the tutorial's classic queue", {"durable": True}, {}, ["x-queue-type", "quorum", "type: classic"]),
    (
        "a quorum queue where classic is wanted",
        {"durable": True, "arguments": {"x-queue-type": "quorum"}},
        {"type": "classic"},
        ["x-queue-type", "type: quorum"],
    ),
    ("a queue that is not durable", {"durable": False}, {"type": "classic"}, ["durable=false", "durable=true"]),
    (
        "a queue with another argument",
        {"durable": True, "arguments": {"x-message-ttl": 60000}},
        {"type": "classic"},
        ["x-message-ttl", "60000"],
    ),
]


@pytest.mark.parametrize(("what", "found", "wanted", "words"), MISMATCHES, ids=[m[0] for m in MISMATCHES])
def test_a_queue_cannot_be_redeclared_with_other_arguments(
    daemon: Daemons, vhost: Vhost, what: str, found: dict[str, Any], wanted: dict[str, Any], words: list[str]
) -> None:
    """One clear error that shows found against wanted and what can be done; as it was the only queue, exit 78."""
    with vhost.channel(confirmed=True) as channel:
        channel.queue_declare("task_queue", **found)
        channel.basic_publish("", "task_queue", b"kept")
    with daemon(ledger_queue(4, **wanted)) as running:
        assert running.wait() == os.EX_CONFIG
        errors = running.events("queue.refused")
        assert len(errors) == 1
        for word in [*words, "declare: false", "another queue name", "delete"]:
            assert word in errors[0]["error"], word
        assert running.events("master.giving_up")
    assert vhost.count("task_queue") == 1


def test_other_queues_go_on_when_one_is_refused(daemon: Daemons, vhost: Vhost) -> None:
    """The refused one is loud and alone, and is tried again: mended, it works without a restart."""
    with vhost.channel() as channel:
        channel.queue_declare("old", durable=True)
    queues = ledger_queue(1) | {"old": {"handler": "ledgers:work", "workers": 3}}
    with daemon(queues) as running:
        running.await_event("queue.refused", queue="old")
        running.await_event("worker.consuming", queue="task_queue")
        vhost.publish("task_queue", "0 fine")
        running.await_event("delivery.settled", queue="task_queue")
        running.write(queues=ledger_queue(1) | {"old": {"handler": "ledgers:work", "workers": 3, "type": "classic"}})
        running.signal(signal.SIGHUP)
        running.await_event("worker.consuming", 3, queue="old")
        assert len(running.events("queue.refused")) == 1


def test_declare_false_takes_a_queue_as_it_is(daemon: Daemons, vhost: Vhost) -> None:
    """The way out that the error names works."""
    with vhost.channel() as channel:
        channel.queue_declare("task_queue", durable=True, arguments={"x-max-priority": 3})
    with daemon(ledger_queue(1, declare=False)) as running:
        running.consuming(1)
        vhost.publish("task_queue", "0 fine", priority=2)
        running.await_event("delivery.settled", outcome="done")


# 6. The number of tasks in the queue is watched.


def test_depth_is_logged_at_a_steady_interval_for_every_queue_busy_or_idle(daemon: Daemons, vhost: Vhost) -> None:
    """A line a second for the busy one, the idle one and the paused one, with the right numbers."""
    queues = {
        "busy": {"handler": "ledgers:work"},
        "idle": {"handler": "ledgers:work"},
        "paused": {"handler": "ledgers:work", "paused": True},
    }
    with daemon(queues) as running:
        running.consuming(2)
        vhost.publish("busy", "4 long", "0 next", "0 after")
        running.await_event("queue.depth", queue="busy", ready=2, in_flight=1, consumers=1)

        def gaps(turn: int) -> list[float]:
            running.await_event("queue.depth", 5 * turn, queue="paused")  # the last one told
            told = [running.events("queue.depth", queue=queue)[5 * turn - 5 : 5 * turn] for queue in queues]
            pairs = (pair for lines in told for pair in itertools.pairwise(lines))
            return [seconds_of_day(later["time"]) - seconds_of_day(earlier["time"]) for earlier, later in pairs]

        # Of three times five lines: a machine that stands still makes one late, and the next one comes on the dot.
        assert any(all(0.5 < gap < 1.6 for gap in gaps(turn)) for turn in (1, 2, 3)), [gaps(1), gaps(2), gaps(3)]
        assert running.events("queue.depth", queue="idle", ready=0, consumers=1, dead=0)


def test_depth_is_logged_while_the_broker_is_away(daemon: Daemons, mortal: Vhost, mortal_node: Node) -> None:
    """With the reason, and the last known figure and its age; and the figures are back when the broker is."""
    with daemon(ledger_queue(1, paused=True), url=mortal) as running:
        running.await_event("queue.depth")
        with mortal.channel() as channel:
            channel.queue_declare("task_queue", durable=True, arguments={"x-queue-type": "quorum"})
        mortal.publish("task_queue", "0 a", "0 b")
        running.await_event("queue.depth", ready=2)
        time.sleep(_OLD_ENOUGH)
        mortal_node.pause()  # hung: no answer, no error
        try:
            hung = running.await_event("queue.depth", level="warning", last_ready=2)
            assert "not answered" in hung["reason"]
        finally:
            mortal_node.resume()
        running.await_event("queue.depth", len(running.events("queue.depth", ready=2)) + 1, ready=2)
        mortal_node.kill()
        away = running.await_event("queue.depth", ready=None, last_ready=2, reason=hung["reason"])
        away = eventually(lambda: [e for e in running.events("queue.depth", ready=None) if "refused" in e["reason"]])[0]
        assert away["age_s"] > 0
        before = len(running.events("queue.depth", ready=2))
        mortal_node.start()
        running.await_event("queue.depth", before + 1, ready=2)


def seconds_of_day(stamp: str) -> float:
    """Seconds since midnight of a log line's time."""
    hours, minutes, seconds = stamp[11:23].split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds)


# 7. Works with anyone's client.


def tutorial_new_task(vhost: Vhost, message: str, **queue: Any) -> None:
    """What the tutorial's new_task.py does, in our own words: declare the durable queue, publish persistently."""
    with vhost.channel() as channel:
        channel.queue_declare(queue="task_queue", durable=True, **queue)
        channel.basic_publish(
            exchange="", routing_key="task_queue", body=message, properties=pika.BasicProperties(delivery_mode=2)
        )


def tutorial_worker(vhost: Vhost, **queue: Any) -> bytes:
    """What the tutorial's worker.py does, for one message: declare, prefetch 1, take, ack."""
    with vhost.channel() as channel:
        channel.queue_declare(queue="task_queue", durable=True, **queue)
        channel.basic_qos(prefetch_count=1)
        for method, _, body in channel.consume("task_queue", inactivity_timeout=10):
            assert method is not None, "no message came"
            channel.basic_ack(delivery_tag=method.delivery_tag)
            return bytes(body)
    raise AssertionError


TUTORIALS: dict[str, dict[str, Any]] = {"classic": {}, "quorum": {"arguments": {"x-queue-type": "quorum"}}}


@pytest.mark.parametrize("queue_type", TUTORIALS)
def test_the_tutorials_new_task_can_declare_first(daemon: Daemons, vhost: Vhost, queue_type: str) -> None:
    """Their sender is first, our worker second."""
    tutorial_new_task(vhost, "0 Hello", **TUTORIALS[queue_type])
    with daemon(ledger_queue(1, type=queue_type)) as running:
        running.await_event("delivery.settled", outcome="done")
        assert running.done() == ["0 Hello"]


@pytest.mark.parametrize("queue_type", TUTORIALS)
def test_the_tutorials_new_task_can_declare_second(daemon: Daemons, vhost: Vhost, queue_type: str) -> None:
    """Our worker is first, their sender second."""
    with daemon(ledger_queue(1, type=queue_type)) as running:
        running.consuming(1)
        tutorial_new_task(vhost, "0 Hello", **TUTORIALS[queue_type])
        running.await_event("delivery.settled", outcome="done")


@pytest.mark.parametrize("queue_type", TUTORIALS)
def test_the_tutorials_worker_handles_what_wq_send_sends(daemon: Daemons, vhost: Vhost, queue_type: str) -> None:
    """Our sender, their worker, which then declares second."""
    file = daemon(ledger_queue(1, type=queue_type)).file
    sent = run_cli("send", "--config", str(file), "Hello", "there")
    assert sent.returncode == 0, sent.stderr
    assert tutorial_worker(vhost, **TUTORIALS[queue_type]) == b"Hello there"


def amqp_tool(vhost: Vhost, *command: str) -> subprocess.CompletedProcess[bytes]:
    """Run a program of Debian's amqp-tools against the vhost."""
    return subprocess.run(
        [command[0], f"--url={vhost.url}", *command[1:]], capture_output=True, check=True, timeout=20
    )


def test_amqp_publish_can_sit_at_the_other_end(daemon: Daemons, vhost: Vhost) -> None:
    """Debian's amqp-publish sends, we handle."""
    with daemon(ledger_queue(1, type="classic")) as running:
        running.consuming(1)
        amqp_tool(vhost, "amqp-publish", "--routing-key=task_queue", "--persistent", "--body=0 from C")
        running.await_event("delivery.settled", outcome="done")
        assert running.done() == ["0 from C"]


def test_amqp_consume_can_sit_at_the_other_end(daemon: Daemons, vhost: Vhost) -> None:
    """Debian's amqp-declare-queue declares first, we send, amqp-consume takes."""
    amqp_tool(vhost, "amqp-declare-queue", "--queue=task_queue", "--durable")
    file = daemon(ledger_queue(1, type="classic")).file
    assert run_cli("send", "--config", str(file), "to C").returncode == 0
    taken = amqp_tool(vhost, "amqp-consume", "--queue=task_queue", "--count=1", "cat")
    assert taken.stdout == b"to C"


def test_nothing_is_left_when_the_daemon_has_stopped(daemon: Daemons, vhost: Vhost) -> None:
    """Every child is gone, and the lock with them."""
    with daemon(ledger_queue(3)) as running:
        pids = [event["pid"] for event in running.consuming(3)]
        assert running.stop() == 0
        assert not [pid for pid in pids if alive(pid)]
