"""The daemon under the supervisord.conf that is shipped, with real supervisord: start, stop, restart, never a loop."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from harness import Daemon, Vhost, alive, eventually
from links import missing
from supervised import Supervisor

Daemons = Callable[..., Daemon]
#: Make their program the first process of a PID namespace, as a container does; the second one as root.
_CONTAINER = ("--fork", "--pid", "--mount-proc", "--kill-child")
_CONTAINERS = (("unshare", "--user", "--map-root-user", *_CONTAINER), ("unshare", *_CONTAINER))


class Supervised(Supervisor):
    """A daemon of the tests under supervisord."""

    def __init__(self, daemon: Daemon, **how: Any) -> None:
        self.daemon = daemon
        super().__init__(daemon.directory, daemon.file, daemon.log, WQ_TEST_DIRECTORY=str(daemon.directory), **how)


@pytest.fixture
def supervised(daemon: Daemons) -> Iterator[Callable[..., Supervised]]:
    """Makes supervised daemons; all are gone at the end."""
    made: list[Supervised] = []

    def make(handler: str = "ledgers:work", **how: Any) -> Supervised:
        made.append(Supervised(daemon({"task_queue": {"handler": handler, "workers": 2}}), **how))
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


def test_a_configuration_that_cannot_work_is_tried_once_and_ends_supervisord(
    supervised: Callable[..., Supervised],
) -> None:
    """78: the reason is in the log; never a restart loop, and never a supervisord that is up with nothing to run."""
    service = supervised(handler="raises_on_import:handle")
    assert service.process.wait(20) == -signal.SIGUSR1
    log = service.daemon
    log.await_event("handler.rejected")
    assert len(log.events("master.started")) == 1
    assert "exit code 78" in service.failure()


def test_a_command_that_cannot_be_started_ends_supervisord(supervised: Callable[..., Supervised]) -> None:
    """FATAL."""
    service = supervised(program="/nowhere/workqueued")
    assert service.process.wait(30) == -signal.SIGUSR1
    assert "cannot be started" in service.failure()


def test_a_daemon_that_dies_again_and_again_ends_supervisord(supervised: Callable[..., Supervised]) -> None:
    """Twenty times in a row: a loop is bounded."""
    service = supervised(program="/bin/false")
    assert service.process.wait(60) == -signal.SIGUSR1
    assert "20 times" in service.failure()


def test_supervisord_as_the_first_process_of_a_container_ends_as_well(supervised: Callable[..., Supervised]) -> None:
    """Such a process is deaf to signals that it does not handle: TERM it is, and so the exit code is 0."""

    def works(launcher: tuple[str, ...]) -> bool:
        return subprocess.run([*launcher, "true"], check=False, capture_output=True).returncode == 0

    launcher = next(filter(works, _CONTAINERS), None)
    if launcher is None:
        missing("no PID namespaces here: `unshare --user --map-root-user --pid` fails, and is no use to root either")
    service = supervised(handler="raises_on_import:handle", launcher=launcher)
    assert service.process.wait(30) == 0
    assert "exit code 78" in service.failure()


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
