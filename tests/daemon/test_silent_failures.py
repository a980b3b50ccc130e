"""What fails without a word: a peer that hangs, a dead link, a clock that jumps, a directory that is gone."""

import functools
import glob
import itertools
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from daemon.test_supervisord import Supervised
from harness import Daemon, Event, Vhost, alive, eventually, memory_alarm, run_cli
from links import FAR, PORT, Link, Placed, missing

from workqueued.node import Node

Daemons = Callable[..., Daemon]
#: Comes again after two seconds, without jitter.
SOON = {"attempts": 2, "first": "2s", "factor": 1, "jitter": 0}


def queue(handler: str = "ledgers:by_word", workers: int = 2, **settings: Any) -> dict[str, Any]:
    """A task_queue whose messages are tried once."""
    return {"task_queue": {"handler": handler, "workers": workers, "retry": {"attempts": 1}, **settings}}


def at(event: Event) -> float:
    """When an event was logged, seconds."""
    return datetime.fromisoformat(event["time"]).timestamp()


# --- the broker and the way to it ------------------------------------------------------------------------------------


def test_a_hung_broker_is_noticed_within_two_heartbeats(daemon: Daemons, mortal: Vhost, mortal_node: Node) -> None:
    """No FIN, no RST, and its kernel goes on acknowledging: the heartbeat finds it; afterwards all is handled."""
    heartbeat = 2
    broker = {"url": mortal.url, "heartbeat": f"{heartbeat}s", "connect_timeout": "1s"}
    with daemon(queue(), url=mortal, broker=broker) as running:
        running.consuming(2)
        in_hand = f"wait {running.directory / 'go'}"
        mortal.publish("task_queue", in_hand)
        eventually(running.ledger)
        mortal_node.pause()
        paused_at = time.time()
        try:
            (running.directory / "go").touch()
            for slot in range(2):
                noticed = running.await_event("broker.unreachable", slot=f"task_queue/{slot}", within=30)
                assert "no sign of life for two heartbeats" in noticed["error"]
                assert at(noticed) - paused_at < 2 * (heartbeat + 5) + 1.5
        finally:
            mortal_node.resume()
        running.consuming(4)
        mortal.publish("task_queue", "sleep 0")
        eventually(lambda: {in_hand, "sleep 0"} <= set(running.done()))
        running.await_event("queue.depth", ready=0, in_flight=0, consumers=2)


@pytest.fixture
def link(node: Node) -> Iterator[Link]:
    """A link to the broker that can go dead."""
    link = Link(node.port)
    yield link
    link.close()


def test_a_half_open_link_is_noticed_within_15_seconds(link: Link, vhost: Vhost, tmp_path: Path) -> None:
    """With the default heartbeat: by a worker that acknowledged into it, an idle one, and one in mid-task."""
    url = f"amqp://guest:guest@{FAR}:{PORT}/{vhost.name}"
    broker = {"url": url, "connect_timeout": "2s"}
    running = Placed(tmp_path / "daemon", url, queue(workers=3), broker=broker)
    running.through = tuple(link.near.enter())
    with running:
        running.consuming(3)
        acknowledged, lost = (f"wait {running.directory / name}" for name in ("acknowledged", "lost"))
        vhost.publish("task_queue", acknowledged, lost)
        eventually(lambda: len(running.ledger()) == 2)
        link.cut()
        cut_at = time.time()
        (running.directory / "acknowledged").touch()
        running.await_event("delivery.settled", outcome="done")
        silent = {e["slot"] for e in running.events("worker.consuming")}
        busy = running.events("worker.consuming", pid=running.started(lost)[0]["pid"])[0]["slot"]
        for slot in silent - {busy}:
            noticed = running.await_event("broker.unreachable", slot=slot, within=30)
            assert "nobody answers at the other end any more" in noticed["error"]
            assert at(noticed) - cut_at < 15
        eventually(lambda: not link.connections(), what="the one in mid-task notices as well")
        assert time.time() - cut_at < 15
        (running.directory / "lost").touch()
        running.await_event("delivery.lost", slot=busy)
        link.mend()
        running.consuming(6)
        eventually(lambda: len(running.started(lost)) == 2)
        running.await_event("queue.depth", ready=0, in_flight=0, consumers=3)


@pytest.fixture
def short_ack_timeout(node: Node) -> Iterator[None]:
    """The broker waits two seconds for an acknowledgement, and looks every second."""
    names = ("consumer_timeout", "channel_tick_interval")
    read = f"[begin {{ok, V}} = application:get_env(rabbit, N), V end || N <- [{', '.join(names)}]]."
    before = json.loads(node.ctl("eval", read))
    write = "[application:set_env(rabbit, N, V) || {{N, V}} <- [{{{}, {}}}, {{{}, {}}}]]."
    node.ctl("eval", write.format(names[0], 2000, names[1], 1000))
    yield
    node.ctl("eval", write.format(names[0], before[0], names[1], before[1]))


def test_a_task_that_outlasts_the_ack_timeout_comes_again_and_leaves_no_zombie(
    daemon: Daemons, vhost: Vhost, short_ack_timeout: None
) -> None:
    """The broker closes the channel (406): the log says why, the worker consumes again, the second run settles it."""
    with daemon(queue(), broker={"url": vhost.url, "heartbeat": "2s"}) as running:
        running.consuming(2)
        slow = f"wait {running.directory / 'go'}"
        vhost.publish("task_queue", slow)
        eventually(lambda: len(running.started(slow)) == 2, within=30)
        (running.directory / "go").touch()
        assert "delivery acknowledgement" in running.await_event("broker.unreachable")["error"]
        running.await_event("delivery.lost", verdict="done")
        assert running.await_event("delivery.settled", outcome="done")["redelivered"]
        running.consuming(3)
        running.await_event("queue.depth", ready=0, in_flight=0, consumers=2)
        assert len(running.started(slow)) == 2


def test_under_an_alarm_a_retry_and_a_letter_wait_and_their_handlers_do_not_run_again(
    daemon: Daemons, vhost: Vhost, node: Node
) -> None:
    """Two workers are held up by the alarm, the third acknowledges; afterwards each message has its one copy."""
    with daemon(queue(workers=3, retry=SOON, paused=True)) as running:
        running.await_event("queue.depth")
        with vhost.channel() as channel:
            channel.queue_declare("task_queue", durable=True, arguments={"x-queue-type": "quorum"})
        vhost.publish("task_queue", "retry 2", "json", "sleep 0", "sleep 0.1")
        with memory_alarm(node):
            running.write(queues=queue(workers=3, retry=SOON))
            running.signal(signal.SIGHUP)
            running.await_event("delivery.settled", 2, outcome="done")

            def settling() -> int:
                running.signal(signal.SIGUSR1)
                return len({event["child"] for event in running.events("child.reported", state="settling")})

            eventually(lambda: settling() == 2)
            assert [len(running.started(body)) for body in ("retry 2", "json")] == [1, 1]
            assert len(running.events("delivery.settled")) == 2
        running.await_event("delivery.settled", outcome="dead", within=30)
        running.await_event("delivery.settled", outcome="done", attempt=2, within=30)
        assert [len(running.started(body)) for body in ("retry 2", "json")] == [2, 1]
        assert vhost.count("task_queue.dead") == 1


# --- the clock -------------------------------------------------------------------------------------------------------


class Clock:
    """The wall clock of those that start in its environment."""

    def __init__(self, directory: Path) -> None:
        libraries = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")  # noqa: PTH207 - Path.glob takes no absolute one
        if not libraries:
            missing("there is no libfaketime.so.1: install libfaketime")
        self._file = directory / "offset"
        self.environment = {
            "LD_PRELOAD": libraries[0],
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        self.jump(0)

    def jump(self, seconds: int) -> None:
        """Be so far away from the true time."""
        fresh = self._file.with_name("offset.new")
        fresh.write_text(f"{seconds:+d}\n")
        fresh.rename(self._file)


def test_a_clock_that_jumps_an_hour_changes_nothing(daemon: Daemons, vhost: Vhost, tmp_path: Path) -> None:
    """Forward, then back, in the middle of tasks: no limit fires, nobody is killed, delays and intervals stay true."""
    clock = Clock(tmp_path)
    # Not `sleep`: under libfaketime 0.9.10, clock_nanosleep(2) with a moment of the monotonic clock is EINVAL.
    with daemon(queue(time_limit="60s", retry=SOON)).start(**clock.environment) as running:
        running.consuming(2)
        for number, offset in enumerate((3600, 0)):
            vhost.publish("task_queue", f"burn 1.5 {number}", f"fail 2 {number}")
            eventually(functools.partial(running.started, f"burn 1.5 {number}"))
            clock.jump(offset)
            send = ("--config", str(running.file), "--queue", "task_queue", f"fail 1 {number}")
            assert run_cli("send", *send).returncode == 0
            running.await_event("delivery.settled", 3 * (number + 1), outcome="done")
        running.signal(signal.SIGHUP)
        running.consuming(4)
        first, second = ([e["at"] for e in running.started(f"fail 2 {number}")] for number in range(2))
        assert 1.9 < first[1] - first[0] < 10
        assert 1.9 < second[1] - second[0] < 10
        waits = [event["wait_ms"] for event in running.events("delivery.settled")]
        assert all(wait is None or wait >= 0 for wait in waits), waits
        lines = [at(event) for event in running.events("queue.depth", generation=1)]
        gaps = [(later - earlier) % 3600 for earlier, later in itertools.pairwise(lines)]
        assert all(gap < 3 for gap in gaps), gaps
        # A line may be late, and the next one on the dot all the same: none is a whole interval ahead of another.
        late = [0.0, *itertools.accumulate(gap - 1 for gap in gaps)]
        assert all(later - earlier > -1 for earlier, later in itertools.combinations(late, 2)), gaps
        assert any(at(event) > time.time() + 1800 for event in running.events()), "the clock did not jump"
        assert not running.events("worker.died") + running.events("child.killed")
        assert running.stop() == 0


# --- descriptors -----------------------------------------------------------------------------------------------------


def test_a_daemon_with_few_descriptors_works(daemon: Daemons, vhost: Vhost, tmp_path: Path) -> None:
    """24 are enough for a task and a dead letter."""
    running = Placed(tmp_path / "daemon", vhost, queue())
    running.through = ("prlimit", "--nofile=24")
    with running:
        running.consuming(2)
        vhost.publish("task_queue", "sleep 0", "json")
        running.await_event("delivery.settled", outcome="done")
        running.await_event("delivery.settled", outcome="dead")
        assert running.stop() == 0


def test_a_daemon_with_too_few_descriptors_says_so(vhost: Vhost, tmp_path: Path) -> None:
    """10 are too few for a connection: it is told with the reason, and the daemon can be stopped."""
    running = Placed(tmp_path / "daemon", vhost, queue())
    running.through = ("prlimit", "--nofile=10")
    with running:
        assert "Too many open files" in running.await_event("broker.unreachable")["error"]
        assert running.stop() == 0


_LEAKY = """
import os
from ledgers import by_word
leaked = []
def handle(task):
    while task.text.startswith("leak"):
        try:
            leaked.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            break
    task.text == "leak" or by_word(task)
"""


@pytest.mark.parametrize(("body", "outcome"), [("leak", "done"), ("leak and fail", "dead")])
def test_a_handler_that_leaks_every_descriptor_costs_its_worker_and_no_message(
    daemon: Daemons, vhost: Vhost, tmp_path: Path, body: str, outcome: str
) -> None:
    """Its message ends, dead letter and all; the worker goes and is replaced before it takes another."""
    (tmp_path / "leaky.py").write_text(_LEAKY)
    path = [str(tmp_path), str(Path(__file__).parents[1])]
    with daemon(queue("leaky:handle", workers=1, limits={"nofile": 128}), pythonpath=path) as running:
        running.consuming(1)
        vhost.publish("task_queue", body, *(f"sleep 0 {number}" for number in range(5)))
        running.await_event("delivery.settled", outcome=outcome)
        assert "descriptors" in running.await_event("worker.stopped", reason="recycled")["after"]
        eventually(lambda: len(running.done()) == 5)
        running.await_event("delivery.settled", 5 + (outcome == "done"), outcome="done")
        assert not running.events("worker.died") + running.events("copy.delayed")


# --- the run directory and the supervisor ----------------------------------------------------------------------------


def test_a_run_directory_that_was_deleted_is_made_again(daemon: Daemons, vhost: Vhost) -> None:
    """Messages and a reload go on, and the lock keeps a second master out again."""
    running = daemon(queue())
    with running.start():
        running.consuming(2)
        shutil.rmtree(running.directory / "run")
        vhost.publish("task_queue", "sleep 0")
        running.await_event("delivery.settled", outcome="done")
        running.signal(signal.SIGHUP)
        running.await_event("run_directory.lost", level="error")
        running.consuming(4)
        second = daemon(queue(), name="second", run_directory=str(running.directory / "run"))
        assert second.start().wait() == os.EX_TEMPFAIL
        vhost.publish("task_queue", "sleep 0")
        running.await_event("delivery.settled", 2, outcome="done")
        assert len(running.events("run_directory.lost")) == 1
        assert running.stop() == 0
        assert not (running.directory / "run/pid").exists()


def test_of_two_masters_the_one_without_the_lock_leaves(daemon: Daemons, vhost: Vhost) -> None:
    """The directory was deleted, and another master was faster: the first drains and exits 75, the second goes on."""
    first = daemon(queue())
    with first.start():
        first.consuming(2)
        first.signal(signal.SIGSTOP)  # or it may be the faster one after all
        shutil.rmtree(first.directory / "run")
        second = daemon(queue(), name="second", run_directory=str(first.directory / "run"))
        second.start().consuming(2)
        first.signal(signal.SIGCONT)
        first.signal(signal.SIGHUP)
        assert f"pid {second.pid}" in first.await_event("run_directory.lost")["error"]
        assert first.wait() == os.EX_TEMPFAIL
        assert (first.directory / "run/pid").read_text() == f"{second.pid}\n"
        vhost.publish("task_queue", "sleep 0")
        second.await_event("delivery.settled", outcome="done")


def test_after_supervisord_was_killed_its_successor_has_the_only_master(daemon: Daemons, vhost: Vhost) -> None:
    """The old master drains, the lock holds the new one off until then, and the message in hand is handled once."""
    log = daemon(queue())
    supervised = [Supervised(log)]
    try:
        old = [event["pid"] for event in log.consuming(2)]
        old += [log.await_event("master.started")["pid"], log.await_event("queue.depth")["pid"]]
        in_hand = f"wait {log.directory / 'go'}"
        vhost.publish("task_queue", in_hand)
        eventually(log.ledger)
        supervised[0].kill()
        supervised.append(Supervised(log))
        log.await_event("master.refused", exit_code=os.EX_TEMPFAIL)
        (log.directory / "go").touch()
        eventually(lambda: not any(alive(pid) for pid in old), within=5)
        assert log.await_event("master.started", 2)["pid"] == int((log.directory / "run/pid").read_text())
        log.consuming(4)
        log.await_event("queue.depth", consumers=2, in_flight=0, ready=0)
        assert len(log.started(in_hand)) == len(log.done()) == 1
        assert len(log.events("master.started")) == 2
    finally:
        supervised.pop().close()
