"""The daemon under a service manager: when it is up, how it says it is, and that a hang is noticed."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Daemon, Vhost, eventually

from workqueued.scoreboard import Cell, Kind, Scoreboard

Daemons = Callable[..., Daemon]


class Manager:
    """A socket in systemd's place; the real one is in tests/system."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        while data := self._socket.recv(4096):
            self.lines += data.decode().splitlines()

    def status(self) -> str:
        """The words last said."""
        return next((line for line in reversed(self.lines) if line.startswith("STATUS=")), "")

    def await_status(self, *words: str) -> str:
        """Wait for words that contain these."""
        found: str = eventually(
            lambda: all(word in self.status() for word in words) and self.status(), 15, f"{words} in {self.status()}"
        )
        return found

    def close(self) -> None:
        """End listening."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", str(self.path))
        self._thread.join()
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    """One per test."""
    one = Manager(tmp_path / "notify")
    yield one
    one.close()


def supervised(manager: Manager, watchdog: str = "3000000") -> dict[str, str]:
    """What systemd puts into the environment."""
    return {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": watchdog, "WATCHDOG_PID": "1"}


def queue(workers: int, handler: str = "ledgers:work") -> dict[str, Any]:
    """The usual queue."""
    return {"task_queue": {"workers": workers, "handler": handler}}


def test_ready_is_said_when_every_worker_is(daemon: Daemons, vhost: Vhost, manager: Manager) -> None:
    """And the status tells how it goes: consuming, busy, since when, and what waits."""
    running = daemon(queue(3)).start(**supervised(manager))
    with running:
        eventually(lambda: "READY=1" in manager.lines)
        board = Scoreboard.open(running.directory / "run")
        assert [row.words[Cell.PROVEN] for row in board.rows(Kind.WORKER)] == [1, 1, 1]
        running.consuming(3)
        vhost.publish("task_queue", *["60 long"] * 5)
        manager.await_status("3/3 consuming, 3 busy, oldest ", ", ready 2")
        assert not any(line.startswith("STOPPING") for line in manager.lines)


def test_a_broker_that_is_away_at_the_start_is_no_failed_start(daemon: Daemons, manager: Manager) -> None:
    """It would be a restart loop for as long as the outage lasts; the status says what is missing."""
    running = daemon(queue(2), broker={"url": "amqp://127.0.0.1:1"}).start(**supervised(manager))
    with running:
        eventually(lambda: "READY=1" in manager.lines)
        status = manager.await_status("degraded: 0/2 consuming", "2 connecting")
        assert "(task_queue/0 is connecting)" in status
        assert running.stop() == 0


def test_the_watchdog_is_fed_by_the_masters_loop_alone(daemon: Daemons, vhost: Vhost, manager: Manager) -> None:
    """A busy handler, a hung worker or a paused queue stop nothing; a master that is stopped does."""
    running = daemon(queue(1)).start(**supervised(manager))
    with running:
        running.consuming(1)
        vhost.publish("task_queue", "60 long")
        (worker,) = [event["pid"] for event in running.events("worker.consuming")]
        os.kill(worker, signal.SIGSTOP)
        seen = manager.lines.count("WATCHDOG=1")
        eventually(lambda: manager.lines.count("WATCHDOG=1") >= seen + 3)
        running.signal(signal.SIGSTOP)
        time.sleep(0.2)  # what is on its way arrives
        seen = manager.lines.count("WATCHDOG=1")
        with pytest.raises(AssertionError):
            eventually(lambda: manager.lines.count("WATCHDOG=1") > seen, 3)
        os.kill(worker, signal.SIGCONT)
        running.signal(signal.SIGCONT)
        eventually(lambda: manager.lines.count("WATCHDOG=1") > seen)


def test_a_stop_that_was_wanted_puts_the_watchdog_to_rest(daemon: Daemons, vhost: Vhost, manager: Manager) -> None:
    """`supervisorctl stop workqueued` stays stopped; `start` wakes the watchdog. During the drain it watches on."""
    running = daemon(queue(1)).start(**supervised(manager))
    with running:
        running.consuming(1)
        gate = running.directory / "gate"
        vhost.publish("task_queue", f"wait {gate}")
        eventually(running.ledger)
        running.signal(signal.SIGTERM)
        manager.await_status("STATUS=draining: ")
        assert "WATCHDOG_USEC=0" not in manager.lines
        gate.touch()
        assert running.wait() == 0
        eventually(lambda: manager.lines[-2:] == ["WATCHDOG_USEC=0", "STATUS=stopped, as it was told"])
    again = daemon(queue(1)).start(**supervised(manager))
    with again:
        eventually(lambda: manager.lines.count("WATCHDOG_USEC=3000000") == 2)


def test_a_bad_handler_ends_the_start_before_ready(daemon: Daemons, vhost: Vhost, manager: Manager) -> None:
    """So `systemctl start` fails, and says so at once."""
    running = daemon(queue(2, "ledgers:missing")).start(**supervised(manager))
    with running:
        assert running.wait() == os.EX_CONFIG
    assert not {"READY=1", "WATCHDOG_USEC=0"} & set(manager.lines)


def test_what_handlers_start_cannot_speak_for_the_service(daemon: Daemons, vhost: Vhost, manager: Manager) -> None:
    """A program with a sd_notify of its own would end our watchdog, or say that we are ready."""
    command = {"workers": 1, "command": ["sh", "-c", "env"]}
    running = daemon({"task_queue": command}).start(**supervised(manager))
    with running:
        running.consuming(1)
        vhost.publish("task_queue", "x")
        running.await_event("delivery.settled")
        printed = [event["line"] for event in running.events("handler.printed")]
        assert "WQ_QUEUE=task_queue" in printed
        assert not [line for line in printed if line.startswith(("NOTIFY_SOCKET", "WATCHDOG_"))]


def test_a_reload_ends_with_an_event(daemon: Daemons, vhost: Vhost, manager: Manager) -> None:
    """When the last old worker is gone; deployment scripts wait for it."""
    running = daemon(queue(2)).start(**supervised(manager))
    with running:
        running.consuming(2)
        vhost.publish("task_queue", "4 long")
        eventually(running.ledger)
        running.signal(signal.SIGHUP)
        finished = running.await_event("reload.finished", generation=2)
        assert finished["duration_s"] > 0.5
        assert len(running.events("worker.stopped")) == 2
        assert not running.events("reload.finished", generation=1)
