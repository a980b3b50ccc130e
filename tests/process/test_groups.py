"""Process groups: real processes, no broker."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import alive, eventually

from workqueued import groups

#: prctl(2).
_PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture
def run() -> Iterator[str]:
    """The token of a run; all that carries it is ended."""
    token = groups.token(os.getpid(), time.monotonic_ns(), 1)
    yield token
    groups.end_survivors(token)


def start(run: str, script: str = "sleep 1000", **variables: str) -> subprocess.Popen[str]:
    """A shell in a group of its own, with a token; a first line says that it is there."""
    environment = {"PATH": os.environ["PATH"], groups.RUN: run, **variables}
    words = ["/bin/sh", "-c", f"echo $$; {script}"]
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True, process_group=0)


def line_of(process: subprocess.Popen[str]) -> str:
    """The next line that it prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


@contextlib.contextmanager
def reaping() -> Iterator[None]:
    """A block in which orphans are ours: a container's first process may reap none, and a zombie keeps its group."""
    prctl = ctypes.CDLL(None).prctl
    assert prctl(_PR_SET_CHILD_SUBREAPER, 1) == 0
    try:
        yield
    finally:
        prctl(_PR_SET_CHILD_SUBREAPER, 0)


@pytest.mark.parametrize("pgid", [-5, -1, 0, 1, 2**22 + 1, 2**70])
def test_a_number_that_is_no_group_of_a_command_ends_nobody(pgid: int) -> None:
    """0 is our own group for kill(2), -1 everybody, 1 the word for "about to start"."""
    assert not groups.end(pgid)


def test_our_own_group_is_never_ended() -> None:
    """Whatever a damaged cell says."""
    assert not groups.end(os.getpgrp())


def test_a_group_is_ended_whole(run: str) -> None:
    """Also when its leader is dead already."""
    with reaping(), start(run, "sleep 1000 & echo $!; exit 0") as process:
        pgid, member = int(line_of(process)), int(line_of(process))
        process.wait()
        assert groups.end(pgid)
        assert os.waitpid(member, 0) == (member, signal.SIGKILL)
        assert not groups.end(pgid)


def test_a_group_may_end_between_look_and_kill(run: str) -> None:
    """Nothing to end is no error."""
    with start(run, "exit 0") as process:
        process.wait()
    assert not groups.end(process.pid)
    assert groups.end_survivors(run, process.pid) == 0


def test_survivors_are_known_by_their_token(run: str) -> None:
    """In whatever group and session, and only those of this one run."""
    with start(run, "setsid -f sleep 1000; sleep 1000 & exec sleep 1000") as mine, start(run + "0") as other:
        assert line_of(other)
        eventually(lambda: len(groups.survivors(run)) == 3)
        assert mine.pid in groups.survivors(run)
        assert groups.end_survivors(run) == 3
        eventually(lambda: groups.survivors(run) == [])
        mine.wait(10)
        assert other.poll() is None
        assert groups.end_survivors(run + "0") >= 1


def test_a_token_is_the_whole_value_of_the_right_variable(run: str) -> None:
    """Not a part of it, not another variable's, not an argument."""
    variables = {"A": f"{groups.RUN}={run}", f"X{groups.RUN}": run}
    with start(run + "1", f": {groups.RUN}={run}; sleep 1000", **variables) as process:
        assert line_of(process)
        assert groups.survivors(run) == []
        groups.end_survivors(run + "1")


def test_a_member_without_the_token_goes_with_its_group(run: str) -> None:
    """As long as somebody in the group has it: else the number may belong to others by now."""
    with start(run, "env -i sleep 1000 & echo $!; sleep 1000") as process:
        pgid, bare = int(line_of(process)), int(line_of(process))
        eventually(lambda: bare not in groups.survivors(run))
        groups.end_survivors(run, pgid)
        process.wait(10)
        eventually(lambda: not alive(bare))


def test_a_group_whose_number_is_somebody_elses_now_is_left_alone(run: str) -> None:
    """The row of a former master may be old."""
    with start(run) as mine, start(run + "0") as other:
        assert line_of(mine)
        assert line_of(other)
        groups.end_survivors(run, other.pid)
        mine.wait(10)
        assert other.poll() is None
        groups.end_survivors(run + "0")


def test_those_that_fork_on_are_ended_as_well(run: str) -> None:
    """Each look finds who was forked since the last one."""
    with start(run, "while :; do setsid -f sleep 1000; sleep 0.01; done") as process:
        assert line_of(process)
        eventually(lambda: len(groups.survivors(run)) > 5)
        groups.end_survivors(run)
        process.wait(10)
        eventually(lambda: groups.survivors(run) == [])


def test_who_looks_does_not_end_itself(run: str) -> None:
    """A daemon may be started by a command of another daemon, and carries its token."""
    script = """
        from workqueued import groups
        import os
        run = os.environ["WQ_RUN"]
        print(os.getpid() in groups.survivors(run), groups.end_survivors(run), flush=True)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, groups.RUN: run},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False 0\n"


def test_the_dead_are_no_survivors(run: str) -> None:
    """A zombie cannot be ended any more than it is."""
    with start(run, "exit 0") as process:
        eventually(lambda: Path(f"/proc/{process.pid}/stat").read_text().split(") ")[1].startswith("Z"))
        assert groups.survivors(run) == []


def test_a_large_environment_is_read_to_its_end(run: str) -> None:
    """The token may stand anywhere in it, and the kernel gives a page at a time."""
    filling = {f"V{number}": "x" * 100_000 for number in range(10)}
    words = ["/bin/sleep", "1000"]
    with subprocess.Popen(words, env={**filling, groups.RUN: run, "Z": "x" * 100_000}) as process:
        eventually(lambda: groups.survivors(run) == [process.pid])
        assert groups.end_survivors(run) == 1


def test_the_command_of_a_worker_that_was_killed_is_found(run: str) -> None:
    """By its number in the row, or, if it died before it could write that, by the token."""
    script = """
        import sys
        from workqueued.command import Command
        from workqueued.queue_settings import Queue
        from workqueued.delivery import Delivery, Properties
        from workqueued.logs import configure, log
        from workqueued.task import Task
        configure("error", "json")
        script = "setsid -f sleep 1000; trap '' TERM HUP; sleep 1000 & wait; sleep 1000"
        queue = Queue(command=("/bin/sh", "-c", script))
        command = Command("q", queue, lambda word: print(word, flush=True), log)
        command.run(Task(Delivery("q", 1, b"", Properties()), log), sys.argv[1])
    """
    words = [sys.executable, "-c", textwrap.dedent(script), run]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as worker:
        assert line_of(worker) == "1"
        pgid = int(line_of(worker))
        eventually(lambda: len(groups.survivors(run)) == 3)
        worker.kill()
        worker.wait()
        assert os.getpgid(pgid) == pgid
        assert groups.end_survivors(run, pgid) == 3
        eventually(lambda: groups.survivors(run) == [])
        eventually(lambda: not alive(pgid))


def test_a_look_is_cheap(run: str) -> None:
    """The master does it when a worker dies: 300 processes are looked through in a fraction of a second."""
    crowd = [subprocess.Popen(["sleep", "1000"], env={"A": "x" * 2000}) for _ in range(300)]
    try:
        began = time.process_time()
        assert groups.survivors(run) == []
        assert time.process_time() - began < 1.0
    finally:
        for process in crowd:
            process.send_signal(signal.SIGKILL)
        for process in crowd:
            process.wait()
