"""A password is in nothing that the daemon or a command says, wherever it comes from and whatever goes wrong."""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGHUP, SIGUSR1
from typing import Any

import pytest
from harness import TESTS, Daemon, Vhost, eventually, run_cli

from workqueued.node import Node
from workqueued.proc import is_dead
from workqueued.scoreboard import Cell, Kind, Scoreboard

Daemons = Callable[..., Daemon]

#: The broker's password, and what a queue's environment holds.
PASSWORD, TOKEN = "hunter2marker", "tokenmarker"
SECRETS = (PASSWORD, TOKEN)


@pytest.fixture
def user(node: Node, vhost: Vhost) -> Iterator[str]:
    """The test's vhost as a user with that password."""
    node.ctl("add_user", f"user-{vhost.name}", PASSWORD)
    node.ctl("set_permissions", "-p", vhost.name, f"user-{vhost.name}", ".*", ".*", ".*")
    yield vhost.url.replace("guest:guest", f"user-{vhost.name}:{PASSWORD}")
    node.ctl("delete_user", f"user-{vhost.name}")


def clean(what: str, content: str | bytes) -> None:
    """Fail where a secret is in it."""
    text = content.decode(errors="replace") if isinstance(content, bytes) else content
    for secret in SECRETS:
        assert secret not in text, f"{what}: …{text[max(0, text.index(secret) - 200) :][:400]}…"


def look(running: Daemon) -> None:
    """Whatever can be seen of a daemon from outside: its log, its files, its processes' arguments, titles and names."""
    clean("log", running.log.read_bytes())
    run = running.directory / "run"
    for file in run.iterdir():
        clean(file.name, file.read_bytes())
    board = Scoreboard.open(run)
    pids = [row.words[Cell.PID] for kind in (Kind.WORKER, Kind.MONITOR) for row in board.rows(kind)]
    for pid in (running.pid, *(pid for pid in pids if not is_dead(pid))):
        for name in ("cmdline", "comm"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                clean(name, Path(f"/proc/{pid}/{name}").read_bytes())


def commands(file: Path) -> Iterator[subprocess.CompletedProcess[str]]:
    """Every command that reads a configuration."""
    yield run_cli("send", "--config", str(file), "--timeout", "3s", "raise")
    yield run_cli("dead", "--config", str(file), "--timeout", "3s", "list")
    yield run_cli("status", "--config", str(file), "--json")
    yield run_cli("daemon", "--config", str(file), "--check", PYTHONPATH=str(TESTS))
    yield run_cli("daemon", "--config", str(file), "--print-config")


def test_no_secret_is_told_in_any_failure(daemon: Daemons, vhost: Vhost, user: str, tmp_path: Path) -> None:
    """At debug, with a handler that fails: right, wrong password, no vhost, TLS, nobody there, a reload of nonsense."""
    queue = {"handler": "ledgers:misbehave", "environment": {"TOKEN": TOKEN}, "retry": {"attempts": 1}}
    queues: dict[str, Any] = {"task_queue": queue}
    wrong = {
        "broker.refused": [
            vhost.url.replace("guest:guest", f"guest:{PASSWORD}"),
            user.rpartition("/")[0] + "/nowhere",
        ],
        "broker.unreachable": [
            user.replace("amqp:", "amqps:"),
            f"amqp://u:{PASSWORD}@127.0.0.1:1/",
            f"amqp://u:{PASSWORD}@no-such-host.invalid/",
        ],
    }
    with daemon(queues, url=user, log={"level": "debug"}) as running:
        running.consuming(1)
        vhost.publish("task_queue", "raise", message_id="m")
        running.await_event("delivery.settled", message_id="m", outcome="dead")
        for done in commands(running.file):
            clean(str(done.args), done.stdout + done.stderr)
        for event, urls in wrong.items():
            for url in urls:
                before = len(running.events(event))
                running.write(broker={"url": url, "connect_timeout": "2s"})
                running.signal(SIGHUP)
                running.await_event(event, before + 1, within=30)
                look(running)
                for done in commands(running.file):
                    clean(str(done.args), done.stdout + done.stderr)
        running.signal(SIGUSR1)
        running.await_event("master.reported")
        for number, broker in enumerate(
            (
                {"url": f"amqp://u:{PASSWORD}@h:port/"},
                {"url": f"amqp://u:{PASSWORD}/@h"},
                {"url": f"http://u:{PASSWORD}@h"},
                {"url": [user, f"u:{PASSWORD}@h"]},
                {user: 1},
            )
        ):
            running.write(broker=broker)
            running.signal(SIGHUP)
            running.await_event("reload.rejected", number + 1)
            for done in commands(running.file):
                clean(str(done.args), done.stdout + done.stderr)
        look(running)


def test_no_secret_is_told_of_an_address_in_the_environment_or_a_password_file(vhost: Vhost, tmp_path: Path) -> None:
    """WQ_URL, --url and a file that is no text."""
    for url in (
        vhost.url.replace("guest:guest", f"guest:{PASSWORD}"),
        f"amqp://u:{PASSWORD}@127.0.0.1:1/",
        f"amqps://u:{PASSWORD}@127.0.0.1:{vhost.port}/",
        f"amqp://u:{PASSWORD}@h:port",
        f"amqp://u:{PASSWORD}@h/a/b",
        f"amqp://u:{PASSWORD}",
    ):
        for done in (
            run_cli("send", "--queue", "q", "--timeout", "3s", "hello", WQ_URL=url),
            run_cli("dead", "--queue", "q", "--timeout", "3s", "list", WQ_URL=url),
            run_cli("send", "--queue", "q", "--timeout", "3s", "--url", url, "hello"),
        ):
            assert done.returncode != 0
            clean("output", done.stdout + done.stderr)
    (tmp_path / "password").write_bytes(PASSWORD.encode() + b"\xff\n")
    file = tmp_path / "workqueued.yaml"
    file.write_text("broker: {password_file: password}\nqueues: {q: {handler: 'a:b'}}\n")
    done = run_cli("send", "--config", str(file), "hello")
    assert "not UTF-8 text" in done.stderr
    clean("output", done.stdout + done.stderr)


@pytest.mark.parametrize("served", ["command", "handler"])
def test_a_handler_cannot_speak_in_the_services_name(daemon: Daemons, vhost: Vhost, served: str) -> None:
    """The socket to systemd is the service's alone; what else the service has in its environment, it has as well."""
    code = "import os; print(sorted(name for name in os.environ if name.startswith(('NOTIFY', 'WATCHDOG', 'MINE'))))"
    how: dict[str, Any] = {"command": [sys.executable, "-c", code]} if served == "command" else {
        "handler": "ledgers:tell_environment"
    }
    made = daemon({"task_queue": how})
    with made.start(NOTIFY_SOCKET="/nowhere", WATCHDOG_USEC="60000000", WATCHDOG_PID="1", MINE="1") as running:
        running.consuming(1)
        vhost.publish("task_queue", "x")
        printed = eventually(lambda: running.events("handler.printed"))
        assert [event["line"] for event in printed] == ["['MINE']"]
