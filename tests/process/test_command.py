"""Commands: real programs, no broker."""

import json
import os
import resource
import signal
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

from workqueued import command, groups
from workqueued.command import ABOUT_TO_START, Command
from workqueued.delivery import Delivery, Properties
from workqueued.errors import ConfigError, TemporaryError, UnusableError
from workqueued.invocation import OWN, facts
from workqueued.outcome import Exit
from workqueued.queue_settings import Limits, Queue
from workqueued.task import Task

PYTHON = sys.executable


class Log:
    """Takes events, as (name, facts)."""

    def __init__(self, events: list[dict[str, Any]] | None = None, **bound: Any) -> None:
        self.events = [] if events is None else events
        self._bound = bound

    def bind(self, **facts: Any) -> "Log":
        """The same log with further facts."""
        return Log(self.events, **self._bound, **facts)

    def info(self, event: str, **facts: Any) -> None:
        """Take one."""
        self.events.append({"event": event, **self._bound, **facts})

    warning = info


class Runner:
    """Runs commands, and keeps what they were announced as and what they printed."""

    def __init__(self) -> None:
        self.announced: list[int] = []
        self.log = Log()
        self.token = f"test-{os.getpid()}-{time.monotonic_ns()}"

    def command(self, *words: str, **settings: Any) -> Command:
        """A command that is not run yet."""
        return Command("q", Queue(command=words, **settings), self.announced.append, self.log)

    def __call__(self, *words: str, body: bytes = b"", properties: Properties | None = None, **settings: Any) -> Exit:
        """Run one, with settings of its queue."""
        settings = {"time_limit": 60.0, **settings}
        return self.run(self.command(*words, **settings), body, properties, settings["time_limit"])

    def run(
        self, one: Command, body: bytes = b"", properties: Properties | None = None, limit: float | None = 60.0
    ) -> Exit:
        """Run one that is there already."""
        delivery = Delivery("q", 1, body, properties or Properties(message_id="m-1"))
        return one.run(Task(delivery, self.log, limit), self.token)

    def shell(self, script: str, **settings: Any) -> Exit:
        """Run a shell script."""
        return self("/bin/sh", "-c", textwrap.dedent(script), **settings)

    def python(self, script: str, *words: str, **settings: Any) -> Exit:
        """Run a Python script."""
        return self(PYTHON, "-c", textwrap.dedent(script), *words, **settings)

    def lines(self, stream: str = "stdout") -> list[str]:
        """What was printed and logged."""
        return [e["line"] for e in self.log.events if e["event"] == "handler.printed" and e["stream"] == stream]

    def facts(self, event: str) -> list[dict[str, Any]]:
        """The events of a name."""
        return [e for e in self.log.events if e["event"] == event]


@pytest.fixture
def runner() -> Iterator[Runner]:
    """A runner; whatever it leaves behind is ended."""
    one = Runner()
    yield one
    groups.end_survivors(one.token)


def program(path: Path, text: str, mode: int = 0o755) -> str:
    """A file with a program."""
    path.write_text(text)
    path.chmod(mode)
    return str(path)


# --- what a program gets ---------------------------------------------------------------------------------------------


def test_no_shell_reads_the_arguments(runner: Runner) -> None:
    """Spaces, dollars, semicolons, stars and line ends arrive as they are."""
    words = ["a b", "$HOME", "; touch /tmp/never", "*", "`id`", "line\nend", "", "--", "ü"]
    runner.python("import json, sys; print(json.dumps(sys.argv[1:]))", *words)
    assert json.loads(runner.lines()[0]) == words


@pytest.mark.parametrize("size", [0, 1, 100_000, 16 * 1024 * 1024])
def test_the_body_is_on_stdin(runner: Runner, size: int) -> None:
    """All of it, and then its end."""
    body = os.urandom(size)
    runner.python(
        "import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())",
        body=body,
    )
    runner.shell("sha256sum < /dev/stdin", body=body)
    first, second = runner.lines()
    assert second.split()[0] == first


@pytest.mark.parametrize("script", ["exit 0", "exec <&-; exit 0", "head -c 10 >/dev/null", "cat > /dev/null"])
def test_a_program_need_not_read_its_body(runner: Runner, script: str) -> None:
    """It neither waits for us nor gets SIGPIPE, however large the body is."""
    assert runner.shell(script, body=b"x" * 16 * 1024 * 1024) == Exit(0, None, timed_out=False, stderr="")


def test_a_program_may_write_before_it_reads(runner: Runner) -> None:
    """Both ways more than a pipe holds: the classic deadlock."""
    ended = runner.shell("head -c 3000000 /dev/zero | tr '\\0' x; wc -c", body=b"y" * 3_000_000)
    assert ended.code == 0


def environment(
    runner: Runner, properties: Properties, limit: float | None = 60.0, **settings: Any
) -> dict[bytes, bytes]:
    """What a command finds in its environment."""
    script = "import sys; sys.stdout.write(open('/proc/self/environ', 'rb').read().hex())"
    one = runner.command(PYTHON, "-c", script, time_limit=limit, **settings)
    assert runner.run(one, b"", properties, limit).code == 0
    variables = bytes.fromhex("".join(runner.lines())).split(b"\0")[:-1]
    return {name: value for name, _, value in (variable.partition(b"=") for variable in variables)}


def test_the_facts_are_in_the_environment(runner: Runner) -> None:
    """Each under its name; headers as JSON."""
    found = environment(
        runner,
        Properties(
            message_id="id",
            type="image.resize",
            content_type="text/plain",
            correlation_id="c",
            headers={"x-wq-attempt": 3, "width": 100, "list": [1, None, True], "table": {"a": "ü"}},
        ),
    )
    expected = {
        "WQ_MESSAGE_ID": "id",
        "WQ_QUEUE": "q",
        "WQ_ATTEMPT": "3",
        "WQ_TYPE": "image.resize",
        "WQ_CONTENT_TYPE": "text/plain",
        "WQ_CORRELATION_ID": "c",
        "WQ_REDELIVERED": "0",
        "WQ_RUN": runner.token,
    }
    assert {name: found[name.encode()].decode() for name in expected} == expected
    assert json.loads(found[b"WQ_HEADERS"]) == {
        "x-wq-attempt": 3,
        "width": 100,
        "list": [1, None, True],
        "table": {"a": "ü"},
    }
    assert abs(int(found[b"WQ_DEADLINE"]) - (time.time() + 60)) < 30


def test_what_a_message_has_not_is_not_set(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty WQ_MESSAGE_ID would be the same key for all; and an outer command's must not shine through."""
    monkeypatch.setenv("WQ_MESSAGE_ID", "somebody else's")
    monkeypatch.setenv("WQ_DEADLINE", "1")
    monkeypatch.setenv("WQ_CONFIG", "/etc/other.yaml")
    found = environment(runner, Properties(), limit=None)
    ours = {name for name in found if name.startswith(b"WQ_")}
    assert ours == {b"WQ_RUN", b"WQ_QUEUE", b"WQ_ATTEMPT", b"WQ_REDELIVERED", b"WQ_HEADERS", b"WQ_CONFIG"}
    assert found[b"WQ_HEADERS"] == b"{}"


def test_the_facts_are_all_that_is_ours(runner: Runner) -> None:
    """Each that a message may have is kept from shining through."""
    properties = Properties(message_id="i", type="t", content_type="c", correlation_id="c", headers={"a": 1})
    task = Task(Delivery("q", 1, b"", properties), runner.log, 1.0)
    assert {name.decode() for name in facts(task, "token")} == OWN


def test_nasty_properties_cannot_break_the_start(runner: Runner) -> None:
    """NUL, line ends, an equals sign, half a surrogate pair; headers that JSON has not."""
    found = environment(
        runner,
        Properties(
            message_id="a\0b=c\nd\ud800e" + "x" * 200,
            type="=",
            correlation_id="\0",
            headers={"=\0": b"\xff\0", "nan": float("nan"), "big": 2**63, "half": "\ud800", "object": object()},
        ),
    )
    assert found[b"WQ_MESSAGE_ID"] == b"a?b=c\nd?e" + b"x" * 200
    assert found[b"WQ_TYPE"] == b"="
    headers = json.loads(found[b"WQ_HEADERS"])
    assert headers["=\0"] == "\\xff\0"
    assert headers["nan"] == "nan"
    assert headers["big"] == 2**63
    assert b"PATH" in found


def test_headers_that_are_nested_too_deep_become_text(runner: Runner) -> None:
    """The others are as they were."""
    deep: Any = "bottom"
    for _ in range(100_000):
        deep = [deep]
    headers = json.loads(environment(runner, Properties(headers={"deep": deep, "flat": 1}))[b"WQ_HEADERS"])
    assert headers == {"deep": "(cannot be shown)", "flat": 1}
    while isinstance(deep, list):  # or freeing it recurses
        deep = deep.pop()


def test_headers_that_are_too_large_are_left_out(runner: Runner) -> None:
    """Said in the log; execve takes 128 KiB for one variable."""
    found = environment(runner, Properties(message_id="m", headers={"large": "x" * 120_000}))
    assert b"WQ_HEADERS" not in found
    (event,) = runner.facts("headers.omitted")
    assert event["bytes"] > 120_000
    assert event["message_id"] == "m"


def test_an_environment_that_has_no_room_for_the_headers_does_without(runner: Runner) -> None:
    """The kernel's limit is for all arguments and variables together (E2BIG)."""
    soft, _ = resource.getrlimit(resource.RLIMIT_STACK)
    room = 6 * 1024 * 1024 if soft == resource.RLIM_INFINITY else min(soft // 4, 6 * 1024 * 1024)
    room -= sum(len(name) + len(value) + 10 for name, value in os.environb.items()) + 60_000
    full = {f"V{number}": "x" * min(100_000, room - start) for number, start in enumerate(range(0, room, 100_000))}
    found = environment(runner, Properties(headers={"large": "x" * 90_000}), environment=full)
    assert b"WQ_HEADERS" not in found
    assert len(runner.facts("headers.omitted")) == 1


def test_the_environment_of_the_queue_is_given(runner: Runner) -> None:
    """Beside that of the daemon."""
    found = environment(runner, Properties(), environment={"LEVEL": "9", "HOME": "/nowhere"})
    assert found[b"LEVEL"] == b"9"
    assert found[b"HOME"] == b"/nowhere"
    assert found[b"PATH"] == os.environb[b"PATH"]


def test_signals_are_as_a_program_expects_them(runner: Runner) -> None:
    """Python ignores SIGPIPE and SIGXFSZ, and an ignored signal stays so through exec; a blocked one as well."""
    previous = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        runner("cat", "/proc/self/status")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGUSR2, previous)
    status = dict(line.split(":\t") for line in runner.lines() if line.startswith("Sig"))
    glibcs_own = 0b11 << 31  # 32 and 33: its posix_spawn ignores them, and its threads take them again
    assert [int(status[name], 16) & ~glibcs_own for name in ("SigBlk", "SigIgn", "SigCgt")] == [0, 0, 0]


def test_no_descriptor_of_ours_gets_into_a_program(runner: Runner) -> None:
    """Not even one that the daemon inherited: a lock's holder waits for its last copy to be closed."""
    inherited = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(inherited, True)
    try:
        runner.python("import os; print(sorted(map(int, os.listdir('/proc/self/fd'))))")
    finally:
        os.close(inherited)
    assert runner.lines() == ["[0, 1, 2, 3]"]  # 3 is the folder it looks into


# --- how it ends -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 64, 75, 78, 126, 127, 255])
def test_the_exit_code_is_told(runner: Runner, code: int) -> None:
    """As it is."""
    assert runner.shell(f"exit {code}") == Exit(code, None, timed_out=False, stderr="")


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV, signal.SIGPIPE, signal.SIGRTMIN + 3]
)
def test_the_signal_that_ended_it_is_told(runner: Runner, number: int) -> None:
    """And is no exit code."""
    assert runner.shell(f"ulimit -c 0; kill -{int(number)} $$") == Exit(None, number, timed_out=False, stderr="")


def test_what_it_does_to_itself_does_nothing_to_us(runner: Runner) -> None:
    """Another directory, closed descriptors, another session, a fork whose child goes on."""
    before = Path.cwd()
    assert runner.shell("cd /; exec <&- >&- 2>&-; exit 7").code == 7
    assert runner.python("import os; os.closerange(0, 1000); os._exit(8)").code == 8
    assert runner.python("import os, sys; os.fork() and os._exit(9); os._exit(3)").code == 9
    assert Path.cwd() == before


def test_the_group_is_announced_before_and_after(runner: Runner) -> None:
    """A worker may die at any moment: the master must know of a command that may be there."""
    runner.shell("exit 0")
    about, group, none = runner.announced
    assert (about, none) == (ABOUT_TO_START, 0)
    assert group > 1
    assert not alive(group)


def test_it_has_a_group_of_its_own(runner: Runner) -> None:
    """Which is the one announced; the terminal's Ctrl-C does not reach it."""
    runner.python("import os; print(os.getpgrp() == os.getpid() != os.getppid(), os.getpgrp())")
    assert runner.lines() == [f"True {runner.announced[1]}"]


def test_what_it_leaves_in_its_group_is_ended(runner: Runner) -> None:
    """And does not delay the verdict, although it holds the pipes open."""
    began = time.monotonic()
    assert runner.shell("sleep 1000 & echo $!; sleep 1000 & echo $!; exit 0").code == 0
    assert time.monotonic() - began < 20
    for line in runner.lines():
        eventually(lambda line=line: not alive(int(line)))  # type: ignore[misc]


def test_a_daemon_that_it_starts_goes_on(runner: Runner, tmp_path: Path) -> None:
    """A session of its own and exit code 0: that was meant. It must have left the group by then."""
    up = tmp_path / "up"
    script = f"setsid -f sh -c ': >{up}; exec sleep 1000'; until [ -e {up} ]; do sleep 0.02; done"
    assert runner.shell(script).code == 0
    assert len(groups.survivors(runner.token)) == 1


def test_a_daemon_that_writes_without_end_does_not_hold_us(runner: Runner) -> None:
    """It holds the pipe and fills it for ever."""
    began = time.monotonic()
    assert runner.shell("setsid -f yes; sleep 0.1; exit 0").code == 0
    assert time.monotonic() - began < 20


# --- the time limit --------------------------------------------------------------------------------------------------


def test_at_the_limit_the_group_is_told_to_end(runner: Runner) -> None:
    """SIGTERM, with its grandchildren."""
    ended = runner.shell("sleep 1000 & echo $!; sleep 1000", time_limit=3)
    assert ended == Exit(None, signal.SIGTERM, timed_out=True, stderr="")
    eventually(lambda: not alive(int(runner.lines()[0])))


def test_a_program_may_tidy_up_at_the_limit(runner: Runner) -> None:
    """Its exit code is told, and that it was out of time."""
    ended = runner.shell("trap 'echo tidy; exit 75' TERM; sleep 1000 & wait", time_limit=3)
    assert (ended.code, ended.timed_out) == (75, True)
    assert runner.lines() == ["tidy"]


def test_who_does_not_listen_is_killed(runner: Runner) -> None:
    """After kill_after, the whole group."""
    began = time.monotonic()
    ended = runner.shell("trap '' TERM; sleep 1000 & echo $!; sleep 1000", time_limit=3, kill_after=0.3)
    assert time.monotonic() - began >= 3.3
    assert ended == Exit(None, signal.SIGKILL, timed_out=True, stderr="")
    eventually(lambda: not alive(int(runner.lines()[0])))


def test_a_stopped_program_is_ended_too(runner: Runner) -> None:
    """SIGTERM alone would wait for SIGCONT."""
    ended = runner.shell("kill -STOP $$", time_limit=0.5)
    assert (ended.signal, ended.timed_out) == (signal.SIGTERM, True)


def test_at_the_limit_who_left_the_group_is_ended_as_well(runner: Runner) -> None:
    """With setsid; known by the token in its environment."""
    ended = runner.shell("setsid sleep 1000 & setsid -f sleep 1000; wait", time_limit=0.5)
    assert ended.timed_out
    eventually(lambda: groups.survivors(runner.token) == [])


def test_a_flood_does_not_hide_the_limit(runner: Runner) -> None:
    """There is always something to read."""
    ended = runner("yes", time_limit=0.5)
    assert (ended.signal, ended.timed_out) == (signal.SIGTERM, True)


def test_without_a_limit_nothing_is_ended(runner: Runner) -> None:
    """No deadline, and a poll without an end."""
    assert runner.shell("sleep 0.3", time_limit=None) == Exit(0, None, timed_out=False, stderr="")
    assert runner.shell("sleep 0.1", time_limit=365 * 86400.0).code == 0


# --- output ----------------------------------------------------------------------------------------------------------


def test_lines_go_to_the_log(runner: Runner) -> None:
    """With their stream and the message's id, also the last one without an end."""
    ended = runner.shell("echo one; echo two >&2; printf three; printf four >&2")
    assert runner.lines("stdout") == ["one", "three"]
    assert runner.lines("stderr") == ["two", "four"]
    assert {event["message_id"] for event in runner.log.events} == {"m-1"}
    assert ended.stderr == "two\nfour"


def test_output_is_logged_while_it_runs(runner: Runner, tmp_path: Path) -> None:
    """Not only at its end: a program that hangs must have told where."""
    gate = tmp_path / "gate"
    thread = threading.Thread(
        target=runner.shell, args=(f"echo here; while [ ! -e {gate} ]; do sleep 0.02; done",), daemon=True
    )
    thread.start()
    eventually(lambda: runner.lines() == ["here"])
    gate.touch()
    thread.join(20)
    assert not thread.is_alive()


def test_100_mb_of_output_pass(runner: Runner) -> None:
    """Counted, not kept."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    ended = runner.shell("yes 'a line of output' | head -c 100000000")
    assert ended.code == 0
    assert time.monotonic() - began < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 * 1024
    (muted,) = runner.facts("handler.muted")
    shown = runner.lines()
    assert len(shown) == 1000
    assert muted["bytes"] + 17 * len(shown) == 100_000_000
    assert muted["lines"] + len(shown) == -(-100_000_000 // 17)
    assert muted["message_id"] == "m-1"


def test_the_end_of_stderr_is_kept_whatever_came_before(runner: Runner) -> None:
    """Muted or not: it says why it failed."""
    ended = runner.shell("yes ü | head -n 1000000 >&2; echo 'fatal: no such image' >&2; exit 1")
    assert ended.code == 1
    assert ended.stderr.endswith("ü\nfatal: no such image\n")
    assert 4000 < len(ended.stderr.encode()) <= 4096


# --- what cannot be run ----------------------------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for a program that is being replaced."""
    monkeypatch.setattr(command, "_PATIENCE", ())


def refused(runner: Runner, *words: str, **settings: Any) -> str:
    """The text with which a command is refused at the worker's start."""
    with pytest.raises(ConfigError) as caught:
        runner.command(*words, **settings)
    return str(caught.value)


def test_a_command_that_is_not_there_is_refused_at_the_start(runner: Runner, tmp_path: Path) -> None:
    """The text says which key, what is wrong and what to do."""
    assert "queues.q.command: there is no /no/such/program; install it" in refused(runner, "/no/such/program")
    assert str(Path.cwd()) in refused(runner, "./no-such-program")
    assert f"is no program 'no-such-program' in the PATH, {tmp_path}" in refused(
        runner, "no-such-program", environment={"PATH": str(tmp_path)}
    )
    assert "is a directory" in refused(runner, str(tmp_path))
    plain = program(tmp_path / "plain", "#!/bin/sh\n", 0o644)
    assert "chmod +x" in refused(runner, plain)
    assert "NUL" in refused(runner, "/bin/true", "a\0b")
    assert "NUL" in refused(runner, "/bin/true", environment={"A": "\0"})
    assert "no program can be given" in refused(runner, "/bin/true", "\ud800")
    assert refused(runner, "/" + "x" * 5000)
    assert refused(runner, "a\0/b")


def test_a_name_is_looked_up_in_the_path_of_the_queue(runner: Runner, tmp_path: Path) -> None:
    """Which `environment` may set."""
    program(tmp_path / "mine", "#!/bin/sh\necho mine\n")
    assert runner("mine", environment={"PATH": f"/bin:{tmp_path}"}).code == 0
    assert runner.lines() == ["mine"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("echo no first line\n", "#!"),
        ("#!/no/such/interpreter\n", "interpreter"),
        ("#!/bin/sh\r\necho from Windows\r\n", "interpreter"),
    ],
)
@pytest.mark.usefixtures("impatient")
def test_a_file_that_is_no_program_is_unusable(runner: Runner, tmp_path: Path, text: str, told: str) -> None:
    """Known at the first run; nothing is announced any more."""
    with pytest.raises(UnusableError) as caught:
        runner(program(tmp_path / "odd", text))
    assert str(caught.value).startswith(f"queues.q.command: cannot start {tmp_path}/odd: ")
    assert told in str(caught.value)
    assert runner.announced[-1] == 0


@pytest.mark.parametrize(
    ("spoil", "told"),
    [(Path.unlink, "put it back"), (lambda path: path.chmod(0o644), "chmod")],
    ids=["deleted", "not executable"],
)
@pytest.mark.usefixtures("impatient")
def test_a_program_that_goes_bad_later_is_unusable(
    runner: Runner, tmp_path: Path, spoil: Callable[[Path], None], told: str
) -> None:
    """It was there at the worker's start; and it is used again when it is back."""
    path = tmp_path / "mine"
    one = runner.command(program(path, "#!/bin/sh\n"))
    assert runner.run(one).code == 0
    spoil(path)
    with pytest.raises(UnusableError, match=told):
        runner.run(one)
    program(path, "#!/bin/sh\nexit 5\n")
    assert runner.run(one).code == 5


def test_a_program_that_is_being_replaced_is_waited_for(runner: Runner, tmp_path: Path) -> None:
    """It is missing, or being written, for a moment."""
    path = tmp_path / "mine"
    one = runner.command(program(path, "#!/bin/sh\n"))
    path.unlink()
    threading.Timer(0.2, program, (path, "#!/bin/sh\nexit 5\n")).start()
    assert runner.run(one).code == 5


@pytest.mark.usefixtures("impatient")
def test_a_program_that_is_being_written_is_no_reason_to_pause(runner: Runner, tmp_path: Path) -> None:
    """ETXTBSY passes by itself."""
    one = runner.command(program(tmp_path / "mine", "#!/bin/sh\n"))
    with (tmp_path / "mine").open("a"), pytest.raises(TemporaryError):
        runner.run(one)
    assert runner.announced[-1] == 0


# --- limits ----------------------------------------------------------------------------------------------------------


def test_the_memory_of_a_command_is_limited(runner: Runner) -> None:
    """It fails, not we."""
    ended = runner.python("x = bytearray(1 << 30)", limits=Limits(memory=256 * 1024 * 1024))
    assert ended.code == 1
    assert "MemoryError" in ended.stderr


def test_the_processor_time_of_a_command_is_limited(runner: Runner) -> None:
    """SIGXCPU; each run has its own."""
    one = runner.command(PYTHON, "-c", "while True: pass", limits=Limits(cpu=1.0))
    for _ in range(2):
        assert runner.run(one).signal == signal.SIGXCPU


def test_limits_change_nothing_else(runner: Runner, tmp_path: Path) -> None:
    """Arguments, body, verdict, group; a program that looks like an option."""
    limited = Limits(cpu=100.0, memory=1 << 40)
    runner.python("import json, sys; print(json.dumps(sys.argv[1:]))", "--cpu=1", "$HOME", limits=limited)
    assert json.loads(runner.lines()[-1]) == ["--cpu=1", "$HOME"]
    assert runner.shell("exit $(wc -c)", body=b"123", limits=limited).code == 3
    program(tmp_path / "--help", "#!/bin/sh\nexit 4\n")
    assert runner("--help", limits=limited, environment={"PATH": f"{tmp_path}:/bin"}).code == 4
    ended = runner.shell("sleep 1000 & sleep 1000", limits=limited, time_limit=0.5)
    assert (ended.signal, ended.timed_out) == (signal.SIGTERM, True)


def test_a_program_that_is_gone_is_told_by_prlimit(runner: Runner, tmp_path: Path) -> None:
    """127, as a shell would: to the verdict it is the same as one that cannot be started."""
    one = runner.command(program(tmp_path / "mine", "#!/bin/sh\n"), limits=Limits(cpu=100.0))
    (tmp_path / "mine").unlink()
    ended = runner.run(one)
    assert ended.code == 127
    assert "mine" in ended.stderr


def test_without_prlimit_such_limits_are_refused(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the worker's start."""
    monkeypatch.setenv("PATH", "/nowhere")
    assert "util-linux" in refused(runner, "/bin/true", limits=Limits(cpu=1.0))


APPLY = """
    import sys, resource, os, subprocess
    from workqueued import limits
    from workqueued.queue_settings import Limits
    def show(*words): print(*words, flush=True)
"""


def in_python(code: str, **environment: str) -> list[str]:
    """The lines that code prints in a process of its own, whose limits are its own."""
    script = textwrap.dedent(APPLY) + textwrap.dedent(code)
    done = subprocess.run(
        [PYTHON, "-c", script], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_open_files_and_niceness_are_set_on_the_worker() -> None:
    """Its command inherits them."""
    lines = in_python(
        """
        show(limits.apply(Limits(nofile=99, nice=7), for_command=True))
        subprocess.run(["/bin/sh", "-c", "ulimit -n; nice"])
        """
    )
    assert lines == ["[]", "99", "7"]


def test_limits_that_cannot_be_set_are_told() -> None:
    """Above the hard limit; a memory limit that the worker itself would not fit into."""
    above, nice, memory = in_python(
        """
        resource.setrlimit(resource.RLIMIT_NOFILE, (50, 60))
        show(limits.apply(Limits(nofile=99), for_command=True), resource.getrlimit(resource.RLIMIT_NOFILE))
        os.setpriority = lambda *_: (_ for _ in ()).throw(PermissionError(1, "Operation not permitted"))
        show(limits.apply(Limits(nice=7), for_command=True))
        show(limits.apply(Limits(memory=16 << 20), for_command=False), resource.getrlimit(resource.RLIMIT_AS)[0])
        """
    )
    assert "nofile: 99 is above the hard limit" in above
    assert above.endswith("(60, 60)")
    assert "sandbox" in nice
    assert "too little for a worker" in memory
    assert memory.endswith("-1")


def test_the_memory_of_a_worker_with_a_handler_is_limited() -> None:
    """A MemoryError in the handler; that of one with a command is not."""
    lines = in_python(
        """
        show(limits.apply(Limits(memory=1 << 30), for_command=True), resource.getrlimit(resource.RLIMIT_AS)[0])
        show(limits.apply(Limits(memory=1 << 30), for_command=False), resource.getrlimit(resource.RLIMIT_AS)[0])
        try: bytearray(1 << 31)
        except MemoryError: show("MemoryError")
        """
    )
    assert lines == ["[] -1", f"[] {1 << 30}", "MemoryError"]


# --- what stays ------------------------------------------------------------------------------------------------------


def descriptors() -> int:
    """How many this process has."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def children() -> list[str]:
    """All children of this process, zombies included, whichever thread made them."""
    return [pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]


@pytest.mark.usefixtures("impatient")
def test_nothing_is_left_behind(runner: Runner, tmp_path: Path) -> None:
    """No descriptor and no zombie, however it ends."""
    path = tmp_path / "mine"
    good = runner.command("/bin/sh", "-c", "echo x; echo y >&2; sleep 100 & exit 1")
    late = runner.command("/bin/sh", "-c", "sleep 100", time_limit=0.1, kill_after=0.1)
    bad = runner.command(program(path, "no program"))
    before, others = descriptors(), children()
    for number in range(200):
        runner.run(good, b"body")
        if number % 20 == 0:
            assert runner.run(late).timed_out
            with pytest.raises(UnusableError):
                runner.run(bad)
    assert descriptors() == before
    assert children() == others


def test_a_run_that_cannot_be_watched_is_ended(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """No descriptor left for the pidfd: killed and reaped, as nobody would end it at its limit."""

    def fail(_pid: int) -> int:
        raise OSError(24, "Too many open files")

    others, before = children(), descriptors()
    monkeypatch.setattr(os, "pidfd_open", fail)
    with pytest.raises(OSError, match="Too many open files"):
        runner.shell("sleep 1000")
    assert children() == others
    assert descriptors() == before
    assert runner.announced[-1] == 0


def test_signals_to_the_worker_do_not_disturb_a_run(runner: Runner) -> None:
    """A drain lets it finish: the wait goes on after each signal."""
    heard: list[int] = []
    previous = signal.signal(signal.SIGUSR1, lambda number, _frame: heard.append(number))
    done = threading.Event()

    def disturb() -> None:
        while not done.wait(0.02):
            os.kill(os.getpid(), signal.SIGUSR1)

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        assert runner.shell("sleep 0.5; echo done; exit 3").code == 3
    finally:
        done.set()
        thread.join()
        signal.signal(signal.SIGUSR1, previous)
    assert heard
    assert runner.lines() == ["done"]


def test_kill_ends_what_runs_and_what_would(runner: Runner) -> None:
    """From another thread, at an orphan's end: also who left the group, and no other is started."""
    one = runner.command("/bin/sh", "-c", "setsid -f sleep 1000; trap '' TERM; echo up; sleep 1000")

    def kill_when_up() -> None:
        eventually(lambda: runner.lines() == ["up"])
        one.kill()

    thread = threading.Thread(target=kill_when_up)
    thread.start()
    assert runner.run(one) == Exit(None, signal.SIGKILL, timed_out=False, stderr="")
    thread.join()
    eventually(lambda: groups.survivors(runner.token) == [])
    with pytest.raises(UnusableError, match="leave"):
        runner.run(one)
    one.kill()


def test_the_least_number_of_open_files_is_enough_for_a_command() -> None:
    """`nofile: 32` for a process that has eleven descriptors already, more than a worker."""
    lines = in_python(
        """
        from workqueued.command import Command
        from workqueued.queue_settings import Queue
        from workqueued.delivery import Delivery, Properties
        from workqueued.logs import log
        from workqueued.task import Task
        held = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]
        queue = Queue(command=("/bin/true",), limits=Limits(nofile=32))
        limits.apply(queue.limits, for_command=True)
        command = Command("q", queue, lambda _: None, log)
        show(command.run(Task(Delivery("q", 1, b"", Properties()), log), "t").code)
        """
    )
    assert lines == ["0"]
