"""Nowhere to write: a full disk, a real one, under run directory and log; a log that is a full or a broken pipe."""

import contextlib
import fcntl
import json
import os
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pika
import pytest
from harness import Vhost, alive, eventually
from links import Placed, SmallDisk

QUEUE: dict[str, Any] = {"task_queue": {"handler": "ledgers:by_word", "workers": 2, "retry": {"attempts": 1}}}


# --- a disk --------------------------------------------------------------------------------------------------------


@pytest.fixture
def disk() -> Iterator[SmallDisk]:
    """8 MB: room for a scoreboard and a log."""
    disk = SmallDisk("8m")
    yield disk
    disk.close()


@pytest.fixture
def there(disk: SmallDisk, vhost: Vhost, tmp_path: Path) -> Iterator[Placed]:
    """A daemon, not started yet, whose run directory is on the small disk."""
    daemon = Placed(tmp_path / "daemon", vhost, QUEUE, run_directory=str(disk.inside / "run"))
    daemon.through = tuple(disk.namespace.enter())
    yield daemon
    daemon.__exit__()


@pytest.mark.parametrize("room", [0, 1 << 20])
def test_a_run_directory_without_room_is_told_at_the_start(there: Placed, disk: SmallDisk, room: int) -> None:
    """One event that names the directory and the reason; exit 74, upon which a supervisor tries again."""
    disk.fill()
    ballast = disk.path / "ballast"
    os.truncate(ballast, ballast.stat().st_size - room)
    assert there.start().wait() == os.EX_IOERR
    (refusal,) = there.events()
    assert refusal["event"] == "master.refused"
    assert str(disk.inside / "run") in refusal["error"]
    assert "No space left on device" in refusal["error"]


def test_a_run_directory_that_gets_full_later_is_no_trouble(there: Placed, disk: SmallDisk, vhost: Vhost) -> None:
    """The scoreboard has its room from the start: tasks, a crash, its evidence, a replacement and a reload go on."""
    there.start().consuming(2)
    disk.fill()
    vhost.publish("task_queue", *(f"sleep 0 {number}" for number in range(20)), "crash")
    eventually(lambda: len(there.done()) == 20)
    assert there.await_event("delivery.settled", outcome="dead", within=25)["crashes"] == 3
    there.signal(signal.SIGHUP)
    for slot in range(2):
        there.await_event("worker.consuming", slot=f"task_queue/{slot}", generation=2)
    vhost.publish("task_queue", "sleep 0")
    eventually(lambda: len(there.done()) == 21)
    assert there.stop() == 0


def test_a_log_on_a_full_disk_costs_lines_and_no_message(disk: SmallDisk, vhost: Vhost, tmp_path: Path) -> None:
    """Tasks go on; with room again the log does, says how many lines it lost, and no line is spoilt by a torn one."""
    daemon = Placed(tmp_path / "daemon", vhost, QUEUE)
    daemon.log = disk.path / "log"
    with daemon.start():
        daemon.consuming(2)
        disk.fill()
        bodies = [f"sleep 0 {number}" for number in range(100)]
        vhost.publish("task_queue", *bodies)
        eventually(lambda: sorted(daemon.done()) == sorted(bodies))
        full = daemon.log.stat().st_size
        disk.make_room()
        eventually(lambda: b"queue.depth" in daemon.log.read_bytes()[full:])  # by one that may have lost none
        vhost.publish("task_queue", *(f"sleep 0.05 {number}" for number in range(10)))
        eventually(lambda: len(daemon.done()) == 110)
        assert daemon.stop() == 0
    text = daemon.log.read_bytes()
    head, torn = text[:full].rsplit(b"\n", 1)
    assert text[full : full + 1] == b"\n" or not torn
    before, after = ([json.loads(line) for line in part.splitlines() if line] for part in (head, text[full:]))
    finished = Counter(entry["pid"] for entry in daemon.ledger() if entry["what"] == "finished")
    settled = Counter(line["pid"] for line in before + after if line["event"] == "delivery.settled")
    losers = [pid for pid in finished if settled[pid] < finished[pid]]
    assert losers
    for pid in losers:
        first, *later = (line for line in after if line["pid"] == pid)
        assert first["event"] == "log.dropped"
        dropped = first["lines"] + sum(line["lines"] for line in later if line["event"] == "log.dropped")
        assert settled[pid] + dropped >= finished[pid]
    assert vhost.count("task_queue") == 0


# --- a pipe -----------------------------------------------------------------------------------------------------------


class Piped(Placed):
    """A daemon whose stdout is a small pipe; its log is what `listen` hears."""

    def start(self, **environment: str) -> "Piped":
        """See Daemon."""
        self.reader, self.stdout = os.pipe()
        fcntl.fcntl(self.stdout, fcntl.F_SETPIPE_SZ, 4096)
        super().start(**environment)
        os.close(self.stdout)
        return self

    def listen(self) -> None:
        """From now on, read."""
        threading.Thread(target=self._copy, daemon=True).start()

    def _copy(self) -> None:
        with self.log.open("ab", buffering=0) as log, contextlib.suppress(OSError):
            while data := os.read(self.reader, 65536):
                log.write(data)


def await_queue(vhost: Vhost) -> None:
    """Wait until the workers of a daemon whose log cannot be read consume."""

    def consumers() -> int:
        with vhost.channel() as channel, contextlib.suppress(pika.exceptions.ChannelClosedByBroker):
            return int(channel.queue_declare("task_queue", passive=True).method.consumer_count)
        return 0

    eventually(lambda: consumers() == 2, within=30)


@pytest.fixture
def piped(tmp_path: Path, vhost: Vhost) -> Iterator[Piped]:
    """A daemon whose stdout is a pipe."""
    with Piped(tmp_path / "daemon", vhost, QUEUE) as running:
        await_queue(vhost)
        yield running


def test_a_log_that_nobody_reads_costs_lines_and_no_message(piped: Piped, vhost: Vhost) -> None:
    """A reader that was stopped: tasks go on; when it reads again, it hears how many lines it missed."""
    bodies = [f"sleep 0 {number}" for number in range(60)]
    vhost.publish("task_queue", *bodies)
    eventually(lambda: sorted(piped.done()) == sorted(bodies), within=30)
    piped.listen()
    piped.await_event("queue.depth", 3)
    vhost.publish("task_queue", *bodies)
    eventually(lambda: len(piped.done()) == 120)
    for pid in {entry["pid"] for entry in piped.ledger()}:
        piped.await_event("log.dropped", pid=pid)
    assert piped.stop() == 0

    def told() -> int:  # what was dropped last, a worker tells with its next line, which may be its last one
        dropped: list[int] = [event["lines"] for event in piped.events("log.dropped")]
        return len(piped.events("delivery.settled")) + sum(dropped)

    eventually(lambda: told() >= 120)
    assert vhost.count("task_queue") == 0


def test_a_log_whose_reader_is_gone_costs_no_message(piped: Piped, vhost: Vhost) -> None:
    """A pipe without a reader: tasks, a reload and a stop go on."""
    os.close(piped.reader)
    vhost.publish("task_queue", *("sleep 0" for _ in range(20)))
    eventually(lambda: len(piped.done()) == 20)
    old = {entry["pid"] for entry in piped.ledger()}
    piped.signal(signal.SIGHUP)
    eventually(lambda: not any(alive(pid) for pid in old), within=30)
    vhost.publish("task_queue", "sleep 0")
    eventually(lambda: len(piped.done()) == 21)
    assert piped.stop() == 0
