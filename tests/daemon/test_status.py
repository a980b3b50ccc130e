"""`wq-status` beside a running daemon: what it says when all is well, and when it is not."""

import contextlib
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from harness import Daemon, Vhost, eventually, run_cli

from workqueued import __version__
from workqueued.node import Node
from workqueued.paths import short_hash

Daemons = Callable[..., Daemon]
#: Takes its stdin for its terminal, which Ctrl-C needs, and becomes the command.
_TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.executable, sys.argv[1:])"
)


def queue(handler: str = "ledgers:work", workers: int = 2, **settings: Any) -> dict[str, Any]:
    """A task_queue."""
    return {"task_queue": {"handler": handler, "workers": workers, "retry": {"attempts": 1}, **settings}}


def ask(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `wq-status` beside a daemon."""
    return run_cli("status", "--config", str(daemon.file), *arguments)


def facts(daemon: Daemon) -> dict[str, Any]:
    """What it says in JSON, and its exit code."""
    asked = ask(daemon, "--json")
    assert asked.stderr == ""
    found: dict[str, Any] = json.loads(asked.stdout)
    return found | {"exit": asked.returncode}


def await_facts(daemon: Daemon, condition: Callable[[dict[str, Any]], object], within: float = 20) -> dict[str, Any]:
    """Ask until it is so."""

    def there() -> dict[str, Any] | None:
        found = facts(daemon)
        return found if condition(found) else None

    found: dict[str, Any] = eventually(there, within)
    return found


# --- states ----------------------------------------------------------------------------------------------------------


def test_a_healthy_daemon_is_running(daemon: Daemons, vhost: Vhost) -> None:
    """Exit 0, and every figure is there: who it is, what waits, who works on what and what was done."""
    with daemon(queue(workers=2)) as running:
        running.consuming(2)
        vhost.publish("task_queue", "0 done")
        running.await_event("delivery.settled")
        vhost.publish("task_queue", "30 long", "30 long", "0 waits", message_id="the-one")
        seen = await_facts(running, lambda it: it["queues"][0]["ready"] == 1 and it["queues"][0]["in_flight"] == 2)
        assert seen["state"] == "running"
        assert (seen["exit"], seen["reasons"], seen["version"]) == (0, [], __version__)
        assert (seen["config"], seen["config_changed"], seen["generation"]) == (str(running.file), False, 1)
        assert seen["config_sha256"] == short_hash(running.file.read_bytes())
        assert seen["master_pid"] == running.pid
        assert seen["monitor"]["rss_bytes"] > 2**20
        (told,) = seen["queues"]
        assert (told["workers_wanted"], told["workers_serving"], told["consumers"]) == (2, 2, 2)
        assert (told["done_total"], told["dead"], told["unacked"]) == (1, 0, None)
        assert told["sample_age_s"] < 3
        assert {one["slot"] for one in seen["workers"]} == {"task_queue/0", "task_queue/1"}
        assert {(one["state"], one["message_id"]) for one in seen["workers"]} == {("busy", "the-one")}
        table = ask(running)
        assert table.returncode == 0
        assert table.stdout.startswith("running since ")
        assert "\x1b" not in table.stdout
        assert ask(running, "--check-backlog", "--warn-ready", "0").returncode == 1
        assert ask(running, "--check-backlog", "--warn-ready", "5").returncode == 0


def test_rates_and_an_eta_are_told_while_a_backlog_is_worked_off(daemon: Daemons, vhost: Vhost) -> None:
    """Tasks of a fifth of a second, two at a time: ten a second."""
    with daemon(queue(workers=2)) as running:
        running.consuming(2)
        vhost.publish("task_queue", *["0.2 task"] * 100)
        seen = await_facts(running, lambda it: it["queues"][0]["eta_s"] and it["queues"][0]["out_per_s"] > 3)
        (told,) = seen["queues"]
        assert told["out_per_s"] < 15
        assert 0 < told["eta_s"] < 60


def test_a_paused_queue_is_told(daemon: Daemons, vhost: Vhost) -> None:
    """Exit 1; the other one runs."""
    queues = queue(workers=1) | {"cron": {"handler": "ledgers:work", "paused": True}}
    with daemon(queues) as running:
        running.consuming(1)
        seen = await_facts(running, lambda it: it["state"] == "paused")
        assert (seen["exit"], seen["reasons"]) == (1, ["cron: paused, by the configuration"])
        assert {one["queue"]: one["state"] for one in seen["queues"]} == {"cron": "paused", "task_queue": "running"}


def test_a_queue_whose_command_is_gone_is_told_as_paused(daemon: Daemons, vhost: Vhost, tmp_path: Path) -> None:
    """Until a reload."""
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    queues = {"task_queue": {"command": [str(program)], "workers": 1}}
    with daemon(queues) as running:
        running.consuming(1)
        program.unlink()
        vhost.publish("task_queue", "x")
        running.await_event("queue.paused")
        seen = await_facts(running, lambda it: it["state"] == "paused")
        assert seen["reasons"] == ["task_queue: paused, its command cannot be run"]


def test_a_queue_that_the_broker_refuses_is_told(daemon: Daemons, vhost: Vhost) -> None:
    """Degraded; the other one runs."""
    with vhost.channel() as channel:
        channel.queue_declare("cron", durable=True)
    queues = queue(workers=1) | {"cron": {"handler": "ledgers:work", "workers": 1}}
    with daemon(queues) as running:
        running.consuming(1)
        running.await_event("queue.refused")
        seen = await_facts(running, lambda it: it["reasons"] == ["cron: the broker refuses it"])
        assert (seen["state"], seen["exit"]) == ("degraded", 1)


def test_a_killed_worker_is_among_the_last_deaths(daemon: Daemons, vhost: Vhost) -> None:
    """With what it had in hand; and its counts are not forgotten. A new master remembers it, too."""
    with daemon(queue(workers=1)) as running:
        victim = running.consuming(1)[0]["pid"]
        vhost.publish("task_queue", "0 before")
        running.await_event("delivery.settled")
        vhost.publish("task_queue", "60 endless", message_id="in-hand")
        eventually(lambda: len(running.ledger()) >= 3)
        os.kill(victim, signal.SIGKILL)
        running.await_event("worker.died")
        seen = await_facts(running, lambda it: it["state"] == "running")
        (death,) = seen["deaths"]
        assert (death["slot"], death["pid"], death["message_id"]) == ("task_queue/0", victim, "in-hand")
        assert death["cause"].startswith("SIGKILL")
        assert seen["queues"][0]["done_total"] == 1
        assert "in-hand" in ask(running).stdout
        assert running.stop(signal.SIGQUIT) == 0
        running.start()
        running.await_event("worker.consuming", 3)
        assert facts(running)["deaths"] == [death]


def test_without_its_master_it_is_down(daemon: Daemons, vhost: Vhost) -> None:
    """Killed: exit 2, also to a monitoring system; before the first start, and after a stop as well."""
    running = daemon(queue())
    where = running.directory / "run"
    assert facts(running)["reasons"] == [f"there is no scoreboard in {where}: no master has run there"]
    with running:
        running.consuming(2)
        os.kill(running.pid, signal.SIGKILL)
        pid = running.pid
        running.wait()
        seen = facts(running)
        assert (seen["state"], seen["exit"]) == ("down", 2)
        assert seen["reasons"] == [f"the master (pid {pid}) is gone, and nobody told it to stop"]
        assert ask(running, "--check-backlog").returncode == 2
        running.start()
        running.consuming(4)
        assert await_facts(running, lambda it: it["state"] == "running")["exit"] == 0
        assert running.stop() == 0
        seen = facts(running)
        assert (seen["exit"], seen["reasons"]) == (2, [f"the master (pid {running.pid}) has stopped, as it was told"])


def test_a_drain_and_an_edit_are_told(daemon: Daemons, vhost: Vhost) -> None:
    """Draining is not running; and a file that was edited waits for its reload."""
    with daemon(queue(workers=1)) as running:
        running.consuming(1)
        running.write(drain_timeout="20s")
        assert "(the file has changed since)" in ask(running).stdout
        running.signal(signal.SIGHUP)
        running.consuming(2)
        seen = await_facts(running, lambda it: it["state"] == "running")
        assert (seen["config_changed"], seen["generation"]) == (False, 2)
        gate = running.directory / "gate"
        vhost.publish("task_queue", f"wait {gate}")
        eventually(running.ledger)
        running.signal(signal.SIGTERM)
        seen = await_facts(running, lambda it: it["state"] == "draining")
        assert (seen["exit"], seen["reasons"]) == (1, [])
        gate.touch()
        assert running.wait() == 0


def test_it_answers_while_the_broker_is_away(daemon: Daemons, mortal: Vhost, mortal_node: Node) -> None:
    """With the last sample, how old that is, and what follows from it."""
    with daemon(queue(workers=1), url=mortal) as running:
        running.consuming(1)
        await_facts(running, lambda it: it["state"] == "running" and it["queues"][0]["ready"] == 0)
        mortal_node.stop()
        try:
            seen = await_facts(running, lambda it: len(it["reasons"]) == 2)
            assert (seen["state"], seen["exit"]) == ("degraded", 1)
            assert seen["reasons"][0] == "task_queue: 0 of 1 worker (task_queue/0 is connecting)"
            assert seen["reasons"][1].startswith("task_queue: the monitor's sample is ")
            assert seen["queues"][0]["ready"] == 0
            assert seen["queues"][0]["sample_age_s"] > 3
            assert ask(running, "--check-backlog").returncode == 3
        finally:
            mortal_node.start()
        await_facts(running, lambda it: it["state"] == "running", within=40)


# --- live ------------------------------------------------------------------------------------------------------------


@dataclass
class Watched:
    """`wq-status --watch` on a terminal of its own."""

    process: subprocess.Popen[bytes]
    master: int
    slave: int
    before: list[Any]
    seen: bytes = b""

    def await_draws(self, count: int) -> None:
        """Wait until it has drawn so often."""

        def drawn() -> bool:
            self.read()
            return self.seen.count(b"\x1b[H") >= count

        eventually(drawn, within=30)

    def read(self) -> None:
        """Take what it wrote."""
        with contextlib.suppress(BlockingIOError, OSError):
            while data := os.read(self.master, 65536):
                self.seen += data

    def end(self, keys: bytes) -> int:
        """Press keys and wait."""
        os.write(self.master, keys)
        code = self.process.wait(10)
        self.read()
        return code


@contextlib.contextmanager
def watched(*arguments: str, size: tuple[int, int] = (24, 80)) -> Iterator[Watched]:
    """Start it."""
    master, slave = pty.openpty()
    os.set_blocking(master, False)
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    before = termios.tcgetattr(slave)
    command = [sys.executable, "-m", "workqueued.cli.status", "--watch", "--interval", "200ms", *arguments]
    process = subprocess.Popen(
        [sys.executable, "-c", _TAKE_TERMINAL, *command],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        env={**os.environ, "TERM": "xterm", "NO_COLOR": ""},
    )
    try:
        yield Watched(process, master, slave, before)
    finally:
        process.kill()
        process.wait()
        os.close(master)
        os.close(slave)


@pytest.mark.parametrize("keys", [b"q", b"\x03"])
def test_watching_draws_in_place_and_leaves_the_terminal_as_it_was(
    daemon: Daemons, vhost: Vhost, keys: bytes
) -> None:
    """On the other screen, without scrolling; after q or Ctrl-C the cursor, the screen and the settings are back."""
    with daemon(queue(workers=1)) as running:
        running.consuming(1)
        with watched("--config", str(running.file)) as screen:
            screen.await_draws(3)
            assert termios.tcgetattr(screen.slave) != screen.before
            assert screen.end(keys) == 0
            assert termios.tcgetattr(screen.slave) == screen.before
    assert screen.seen.startswith(b"\x1b[?1049h\x1b[?25l\x1b[H")
    assert screen.seen.endswith(b"\x1b[?25h\x1b[?1049l")
    assert screen.seen.count(b"\x1b[?1049h") == 1
    drawn = screen.seen.decode().split("\x1b[H")[1]
    assert "task_queue/0" in drawn
    assert "DEPTH" in drawn
    assert len(drawn.split("\r\n")) <= 24


def test_watching_shows_as_much_as_the_terminal_has_room_for(tmp_path: Path, daemon: Daemons) -> None:
    """And says how much it leaves out."""
    with daemon(queue(workers=4)) as running:
        running.consuming(4)
        with watched("--config", str(running.file), size=(6, 60)) as screen:
            screen.await_draws(2)
            assert screen.end(b"q") == 0
        drawn = screen.seen.decode().split("\x1b[H")[1].split("\r\n")
        assert len(drawn) == 6
        assert drawn[-1].startswith("… and ")


def test_a_terminated_watch_leaves_the_terminal_clean_as_well(tmp_path: Path) -> None:
    """Also where there is nothing to see."""
    with watched("--run-directory", str(tmp_path)) as screen:
        screen.await_draws(1)
        screen.process.terminate()
        assert screen.process.wait(10) == 128 + signal.SIGTERM
        screen.read()
        assert screen.seen.endswith(b"\x1b[?25h\x1b[?1049l")
        assert termios.tcgetattr(screen.slave) == screen.before


def test_without_a_terminal_watching_prints_once_per_interval(tmp_path: Path) -> None:
    """One object a line; Ctrl-C is no error, and neither is a reader that has gone."""
    command = [sys.executable, "-m", "workqueued.cli.status", "--run-directory", str(tmp_path)]
    command += ["--watch", "--interval", "100ms"]
    with subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(3):
            assert json.loads(process.stdout.readline())["state"] == "down"
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=10)
        assert (process.returncode, errors) == (0, b"")
        assert b"\x1b" not in rest
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"down\n"
        process.stdout.close()
        assert process.wait(10) == 141
