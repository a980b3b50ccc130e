"""Children and their parent: real forks and signals, no broker."""

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import alive, eventually

from workqueued.backoff import Backoff
from workqueued.errors import ConfigError, TemporaryError
from workqueued.keeper import Keeper
from workqueued.paths import PID_FILE
from workqueued.proc import is_dead
from workqueued.rundir import claim
from workqueued.signals import Inbox

RunPython = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def run_python() -> Iterator[RunPython]:
    """Runs Python code in a process of its own, so that signals and forks are its own."""
    with contextlib.ExitStack() as stack:

        def run(code: str, *arguments: str) -> subprocess.Popen[str]:
            command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
            return stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))

        yield run


def read_line(process: subprocess.Popen[str]) -> str:
    """The next line that it prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


SPAWN = """
    import os, signal, sys, time
    from workqueued import child, logs, signals
    logs.configure("info", "json", sys.stderr)
    signals.block()
    lifeline = child.Lifeline.create()
"""


def test_a_signal_between_fork_and_handler_is_not_lost(run_python: RunPython) -> None:
    """It stays pending until the child's inbox is in place (gunicorn#1910)."""
    process = run_python(
        SPAWN
        + """
    def entry():
        time.sleep(0.3)           # not ready for signals yet
        inbox = signals.Inbox()
        inbox.install()
        time.sleep(0.05)
        return 5 if signal.SIGTERM in inbox.take() else 1
    pid = child.spawn(entry, lifeline, "test")
    os.kill(pid, signal.SIGTERM)
    assert signals.wait(10) == signal.SIGCHLD
    print(child.reap())
    """
    )
    assert "code=5" in read_line(process)
    process.wait()


def test_deaths_that_coalesce_are_all_reaped(run_python: RunPython) -> None:
    """Twenty exits, fewer SIGCHLDs."""
    process = run_python(
        SPAWN
        + """
    for number in range(20):
        child.spawn(lambda: number, lifeline, "test")
    deaths = []
    while len(deaths) < 20:
        signals.wait(10)
        deaths += child.reap()
    print(sorted(death.code for death in deaths) == list(range(20)))
    """
    )
    assert read_line(process) == "True"
    process.wait()


def test_a_child_never_returns_into_the_masters_code(run_python: RunPython) -> None:
    """An exception in it is logged and becomes exit code 70; only the parent goes on."""
    process = run_python(
        SPAWN
        + """
    def entry():
        raise ValueError("a bug")
    child.spawn(entry, lifeline, "test")
    signals.wait(10)
    print("parent", child.reap())
    """
    )
    assert process.stdout is not None
    printed = process.stdout.read().splitlines()
    assert len(printed) == 1
    assert "code=70" in printed[0]
    process.wait()


@pytest.mark.parametrize("how", ["TERM by PDEATHSIG", "end of the lifeline"])
def test_a_child_learns_of_its_masters_death(run_python: RunPython, how: str) -> None:
    """Kill -9 of the master: both ways reach the child."""
    process = run_python(
        SPAWN
        + """
    import select
    def entry():
        inbox = signals.Inbox()
        inbox.install()
        print(os.getpid(), flush=True)
        watched = lifeline.reader if "lifeline" in sys.argv[1] else inbox.fileno()
        select.select([watched], [], [], 20)
        while os.getppid() == int(sys.argv[2]): time.sleep(0.01)
        return 0
    sys.argv.append(str(os.getpid()))
    child.spawn(entry, lifeline, "test")
    signals.wait(20)
    """,
        how,
    )
    pid = int(read_line(process))
    process.kill()
    process.wait()
    eventually(lambda: not alive(pid), within=30)


def test_programs_started_by_a_handler_can_be_terminated(run_python: RunPython) -> None:
    """A child's signal mask is empty: a blocked SIGTERM would be inherited through exec."""
    process = run_python(
        SPAWN
        + """
    import subprocess
    def entry():
        inbox = signals.Inbox()
        inbox.install()
        program = subprocess.Popen(["sleep", "30"])
        program.terminate()
        return 0 if program.wait(10) == -signal.SIGTERM else 1
    child.spawn(entry, lifeline, "test")
    signals.wait(15)
    print(child.reap())
    """
    )
    assert "code=0" in read_line(process)
    process.wait()


def test_a_run_directory_has_one_master(run_python: RunPython, tmp_path: Path) -> None:
    """The second is refused with the pid of the first; when the first is killed, the directory is free."""
    code = """
    import os, sys, time
    from pathlib import Path
    from workqueued.master import claim
    with claim(Path(sys.argv[1])):
        if os.fork() == 0:
            time.sleep(30)      # a child does not hold the lock
            os._exit(0)
        print(os.getpid(), flush=True)
        time.sleep(30)
    """
    first = run_python(code, str(tmp_path))
    pid = read_line(first)
    with pytest.raises(TemporaryError) as caught, claim(tmp_path):
        pass
    assert f"pid {pid}" in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    child = int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
    first.kill()
    first.wait()
    with claim(tmp_path):
        assert (tmp_path / PID_FILE).read_text() == f"{os.getpid()}\n"
    assert not (tmp_path / PID_FILE).exists()
    os.kill(child, signal.SIGKILL)


def test_a_run_directory_that_cannot_be_made_is_a_configuration_error(tmp_path: Path) -> None:
    """The text names it."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file/run"), claim(tmp_path / "file" / "run"):
        pass


# --- the keeper ------------------------------------------------------------------------------------------------------


class Lent:
    """What a keeper calls, written down."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.reader, self.writer = os.pipe()
        self.inbox = Inbox()
        self.keeper = Keeper(
            self.inbox,
            self.reader,
            heartbeat=1.0,
            service=lambda: self.calls.append("service"),
            wake=lambda: self.calls.append("wake"),
            abandon=lambda: self.calls.append("abandon"),
            farewell=lambda: self.calls.append("farewell"),
        )
        self.keeper.free = False
        self.keeper.start()


def test_a_short_task_costs_no_service() -> None:
    """The keeper takes the connection only when it has been lent for long."""
    lent = Lent()
    for _ in range(100):
        lent.keeper.lend()
        lent.keeper.take_back()
    assert "service" not in lent.calls


def test_a_lent_connection_is_serviced_and_never_by_two() -> None:
    """At least once in half a heartbeat, and only while it is lent."""
    lent = Lent()
    lent.keeper.lend()
    eventually(lambda: lent.calls.count("service") >= 2, within=30)
    lent.keeper.take_back()
    held = lent.calls.count("service")
    assert not lent.keeper.lock.acquire(blocking=False)
    begin = time.monotonic()
    eventually(lambda: time.monotonic() - begin > 0.6)
    assert lent.calls.count("service") == held


def test_a_service_that_fails_is_not_repeated_and_is_told() -> None:
    """The main thread finds out when it takes the connection back."""
    lent = Lent()
    calls: list[int] = []

    def fail() -> None:
        calls.append(1)
        raise OSError("gone")

    lent.keeper._service = fail
    lent.keeper.lend()
    eventually(lambda: lent.keeper.loss, within=30)
    begin = time.monotonic()
    eventually(lambda: time.monotonic() - begin > 0.6)
    lent.keeper.take_back()
    assert isinstance(lent.keeper.loss, OSError)
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("number", "told"),
    [(signal.SIGTERM, ["drain"]), (signal.SIGUSR1, ["consume"])],
)
def test_orders_reach_the_main_thread(number: signal.Signals, told: list[str]) -> None:
    """TERM and USR1, and the wait of the main thread is ended; QUIT ends the process, so it is in tests/daemon."""
    lent = Lent()
    lent.inbox.post(number)
    eventually(lambda: lent.keeper.orders.news.is_set() and "wake" in lent.calls, within=30)
    orders: dict[str, Any] = {
        "drain": lent.keeper.orders.drain,
        "consume": lent.keeper.orders.consume.is_set(),
    }
    assert [name for name, given in orders.items() if given] == told
    assert lent.keeper.orders.news.is_set()


def test_the_end_of_the_lifeline_makes_an_orphan() -> None:
    """It drains first; the process ends at the end of the grace only."""
    lent = Lent()
    os.close(lent.writer)
    eventually(lambda: lent.keeper._leave_at < float("inf"), within=30)
    lent.keeper._leave_at = float("inf")  # or it would end this test's process
    assert lent.keeper.orders.orphaned
    assert lent.keeper.orders.drain


def test_the_keeper_takes_no_signals() -> None:
    """They are the main thread's, whose system calls they interrupt."""
    Lent()
    keepers = [thread for thread in threading.enumerate() if thread.name == "keeper"]
    assert keepers

    def blocked() -> bool:  # soon after the thread has started
        masks = [Path(f"/proc/self/task/{thread.native_id}/status").read_text() for thread in keepers]
        found = [int(row.split()[1], 16) for mask in masks for row in mask.splitlines() if row.startswith("SigBlk:")]
        return len(found) == len(keepers) and all(mask & 1 << (signal.SIGTERM - 1) for mask in found)

    eventually(blocked)


def test_backoff_uses_chance_between_nothing_and_the_ceiling() -> None:
    """Full jitter."""
    backoff = Backoff(1.0, 8.0)
    delays = [backoff.next_delay() for _ in range(50)]
    assert all(0 <= delay <= 8 for delay in delays)
    assert len(set(delays)) > 40


def test_select_sees_the_inbox() -> None:
    """It has a descriptor, as anything that can be waited for."""
    inbox = Inbox()
    assert select.select([inbox], [], [], 0)[0] == []
    inbox.post(signal.SIGTERM)
    assert select.select([inbox], [], [], 1)[0] == [inbox]
    assert inbox.take() == [signal.SIGTERM]
    assert inbox.take() == []
    inbox.close()


def test_a_process_is_dead_as_soon_as_it_begins_to_die() -> None:
    """Zombies too, and those that are gone; not one that lives."""
    assert not is_dead(os.getpid())
    process = subprocess.Popen(["sleep", "60"])
    assert not is_dead(process.pid)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert is_dead(process.pid)
    process.wait()
    assert is_dead(process.pid)


def test_a_process_whose_socket_is_closed_by_its_death_is_seen_to_be_dead() -> None:
    """The broker learns of a worker's death at that moment, and gives its message to another one."""
    for _ in range(30):
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            bytearray(50 * 2**20)  # memory takes its time to be given back
            time.sleep(60)
        theirs.close()
        os.kill(pid, signal.SIGKILL)
        assert ours.recv(1) == b""
        assert is_dead(pid)
        os.waitpid(pid, 0)
        ours.close()


def test_a_signal_is_heard_although_a_task_took_the_wakeup_descriptor(run_python: RunPython) -> None:
    """By then the C-level handler writes to somebody else."""
    process = run_python(
        """
        import os, signal, time
        from workqueued.signals import Inbox

        inbox = Inbox()
        inbox.install()
        signal.set_wakeup_fd(-1)
        os.kill(os.getpid(), signal.SIGTERM)
        print(inbox.take() == [signal.SIGTERM], flush=True)
        """
    )
    assert read_line(process) == "True"
    process.wait()


def test_what_a_task_did_to_the_signals_is_undone_at_the_next_look(run_python: RunPython) -> None:
    """There is none within 50 ms of the last one, in a stream of tasks that take less."""
    process = run_python(
        """
        import os, signal, time
        from workqueued.signals import Inbox

        inbox = Inbox()
        inbox.install()
        now = time.monotonic_ns()
        looks = [inbox.restore(now)]
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGQUIT, signal.SIG_IGN)
        looks += [inbox.restore(now + 49_000_000), inbox.restore(now + 51_000_000), inbox.restore(now + 200_000_000)]
        os.kill(os.getpid(), signal.SIGTERM)
        print(looks, signal.SIGTERM in inbox.take(), flush=True)
        """
    )
    assert read_line(process) == "[False, False, True, False] True"
    process.wait()


def test_a_signal_in_the_last_moment_of_a_child_leaves_no_trace(run_python: RunPython) -> None:
    """The inbox is out of scope by then; Python would complain of its closed socket in the middle of the log."""
    process = run_python(
        """
        import os, signal
        from workqueued.signals import Inbox

        def live():
            inbox = Inbox()
            inbox.install()

        os.dup2(1, 2)
        live()
        os.kill(os.getpid(), signal.SIGQUIT)
        print("still here", flush=True)
        """
    )
    out, _ = process.communicate(timeout=20)
    assert (out, process.returncode) == ("still here\n", 0)
