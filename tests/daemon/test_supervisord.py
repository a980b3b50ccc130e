"""The daemon under the supervisord.conf that is shipped, with real supervisord: start, stop, restart, never a loop."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Daemon, Vhost, alive, eventually

Daemons = Callable[..., Daemon]
BIN = Path(sys.executable).parent
SHIPPED = Path(__file__).parents[2] / "etc/supervisord.conf"


class Supervised:
    """supervisord with the shipped configuration, its paths moved into the test's folder."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.conf = daemon.directory / "supervisord.conf"
        text = SHIPPED.read_text()
        paths = {
            "/opt/workqueued/bin/workqueued": str(BIN / "workqueued"),
            "/etc/workqueued/workqueued.yaml": str(daemon.file),
            "/var/log/workqueued/workqueued.log": str(daemon.log),
            "/var/log/workqueued": str(daemon.directory),
            "/run/workqueued": str(daemon.directory),
        }
        for shipped, ours in paths.items():
            assert shipped in text, shipped
            text = text.replace(shipped, ours)
        self.conf.write_text(text)
        environment = {**os.environ, "WQ_TEST_DIRECTORY": str(daemon.directory)}
        command = [str(BIN / "supervisord"), "-n", "-c", str(self.conf)]
        self.process = subprocess.Popen(command, env=environment, start_new_session=True)

    def ctl(self, *arguments: str) -> str:
        """Run supervisorctl; returns what it prints."""
        command = [str(BIN / "supervisorctl"), "-c", str(self.conf), *arguments]
        return subprocess.run(command, capture_output=True, check=False, text=True, timeout=60).stdout

    def kill(self) -> None:
        """Kill -9 to supervisord alone."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End supervisord, and with it the daemon."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


@pytest.fixture
def supervised(daemon: Daemons) -> Iterator[Callable[..., Supervised]]:
    """Makes supervised daemons; all are gone at the end."""
    made: list[Supervised] = []

    def make(**queue: object) -> Supervised:
        made.append(Supervised(daemon({"task_queue": {"handler": "ledgers:work", "workers": 2, **queue}})))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_supervisorctl_status_stop_start_and_signal_do_the_right_thing(
    supervised: Callable[..., Supervised], vhost: Vhost
) -> None:
    """RUNNING; a stop drains and stays; a start starts; HUP reloads."""
    service = supervised()
    log = service.daemon
    log.consuming(2)
    assert "RUNNING" in service.ctl("status")
    vhost.publish("task_queue", "1 long")
    eventually(log.ledger)
    assert "workqueued: stopped" in service.ctl("stop", "workqueued")
    assert log.done() == ["1 long"]
    assert "STOPPED" in service.ctl("status")
    assert log.events("master.stopped", exit_code=0)
    assert "workqueued: started" in service.ctl("start", "workqueued")
    log.consuming(4)
    log.write(queues={"task_queue": {"handler": "ledgers:work", "workers": 3}})
    service.ctl("signal", "HUP", "workqueued")
    log.await_event("reload.started", changed=["queues.task_queue.workers"])
    log.consuming(7)


def test_a_killed_master_is_started_again_and_leaves_no_orphans(
    supervised: Callable[..., Supervised], vhost: Vhost
) -> None:
    """Kill -9: its workers go, a new master consumes, and a message that was in work is handled."""
    service = supervised()
    log = service.daemon
    old = [event["pid"] for event in log.consuming(2)]
    master = log.await_event("master.started")["pid"]
    vhost.publish("task_queue", "1.5 in work")
    eventually(log.ledger)
    os.kill(master, signal.SIGKILL)
    assert log.await_event("master.started", 2)["pid"] != master
    log.consuming(4)
    eventually(lambda: not any(alive(pid) for pid in old), within=8)
    eventually(log.done)
    vhost.publish("task_queue", "0 probe")
    eventually(lambda: "0 probe" in log.done())


def test_a_configuration_that_cannot_work_is_tried_once(supervised: Callable[..., Supervised]) -> None:
    """78 is EXITED, with the reason in the log; never a restart loop."""
    service = supervised(handler="raises_on_import:handle")
    log = service.daemon.log
    eventually(lambda: "EXITED" in service.ctl("status"))
    assert log.read_text().count("handler.rejected") == 1
    begin = time.monotonic()
    eventually(lambda: time.monotonic() - begin > 3)
    assert log.read_text().count('"master.started"') == 1
    assert "EXITED" in service.ctl("status")


def test_killing_supervisord_drains_the_daemon(supervised: Callable[..., Supervised], vhost: Vhost) -> None:
    """Nobody is left behind whom no supervisor knows: the next supervisord would start a second master."""
    service = supervised()
    log = service.daemon
    workers = [event["pid"] for event in log.consuming(2)]
    master = log.await_event("master.started")["pid"]
    service.kill()
    eventually(lambda: not any(alive(pid) for pid in [master, *workers]))


def test_a_long_task_does_not_keep_the_next_supervisord_waiting(
    supervised: Callable[..., Supervised], vhost: Vhost
) -> None:
    """What supervisord's death leaves behind has five seconds, like every orphan, and then gives the message back."""
    service = supervised()
    log = service.daemon
    workers = [event["pid"] for event in log.consuming(2)]
    vhost.publish("task_queue", "100")
    eventually(log.ledger)
    service.kill()
    eventually(lambda: not any(alive(pid) for pid in workers), within=9)
    eventually(lambda: vhost.count("task_queue") == 1)
