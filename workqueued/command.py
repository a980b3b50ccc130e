"""Run a program for a message: body on stdin, facts in the environment, verdict in the exit code.

Runs in: worker, on the main thread, while the connection is lent to the keeper.

    body into a file in memory → posix_spawn, in a process group of its own → wait → end the group → reap

No shell, and no code of ours between fork and exec: posix_spawn lends its memory to the child until the exec, which is
the fastest way, and the only safe one in a process with threads. stdin is a file in memory and no pipe, so a program
that reads late or never cannot hold us up. While a group is announced its leader is not reaped, and so its number is
nobody else's: first the group is ended, then it is no longer announced, then the leader is reaped.
"""

import contextlib
import errno
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workqueued import groups, limits
from workqueued.errors import TemporaryError, UnusableError, WorkqueuedError
from workqueued.invocation import OWN, encoded, facts, find_program
from workqueued.outcome import Exit
from workqueued.printed import Printed
from workqueued.queue_settings import Queue
from workqueued.task import Task

#: Announced before a command is started: from now on there may be one whose number nobody knows yet.
ABOUT_TO_START = 1
#: As much as a pipe holds, unless somebody made it larger; bytes.
_CHUNK = 65536
#: So many reads empty any pipe (/proc/sys/fs/pipe-max-size is 1 MiB) that nobody writes to any more.
_MOST_READS = 16
#: poll(2) takes 31 bits of ms.
_LONGEST_WAIT = 3600.0
#: execve(2) takes 128 KiB for one variable; longer headers are left out. Bytes.
_MOST_HEADERS = 96 * 1024
#: While a program is replaced by a new version it may be missing or unfinished: waits between attempts, seconds.
_PATIENCE = (0.1, 0.2, 0.4, 0.8)
#: What passes by itself.
_PASSING = (errno.EAGAIN, errno.ENOMEM, errno.ENFILE, errno.ETXTBSY)
#: A signal that is ignored stays so through exec, and Python ignores SIGPIPE and SIGXFSZ.
_ALL_SIGNALS = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}


class Command:
    """The command of one queue.

    Args:
        queue_name: for texts.
        queue: `command`, `environment`, `limits`, `time_limit` and `kill_after` are what matters.
        announce: takes the process group that runs: 1 right before there is one, 0 when it is ended.
        log: takes what the command prints.

    Raises:
        ConfigError: the program cannot be found or executed, or prlimit is missing.
    """

    def __init__(self, queue_name: str, queue: Queue, announce: Callable[[int], None], log: Any) -> None:
        words = queue.command or ("",)
        environment = {**os.environ, **(queue.environment or {})}
        self._key = f"queues.{queue_name}.command"
        self._program = find_program(words[0], environment, self._key)
        prefix = limits.prefix(queue.limits, queue_name)
        # With a prefix by its path, as prlimit would look for a name in the PATH once more.
        self._argv = encoded([*prefix, self._program, *words[1:]] if prefix else words, self._key)
        self._path = prefix[0] if prefix else self._program
        # What a command of ours that we may run inside of was told about its message must not shine through.
        names = [name for name in environment if name not in OWN]
        values = encoded([environment[name] for name in names], f"queues.{queue_name}.environment")
        self._environment = dict(zip(map(os.fsencode, names), values, strict=True))
        self._time_limit = queue.time_limit
        self._kill_after = queue.kill_after
        self._announce = announce
        self._log = log
        self._lock = threading.Lock()
        self._running: _Running | None = None
        self._over = False
        _close_others_on_exec()

    def run(self, task: Task, token: str) -> Exit:
        """Run it for one message until it ends; at the time limit SIGTERM, `kill_after` later SIGKILL.

        Args:
            task: the message.
            token: names this run (see `groups.token`).

        Raises:
            UnusableError: it cannot be started, and the message is not to blame.
            TemporaryError: it cannot be started now: too many processes, no memory, the file is being written.
            OSError: it was started and had to be killed, as we cannot watch it.
        """
        began = time.monotonic()
        log = self._log.bind(message_id=task.message_id)
        printed = Printed(log)
        running = self._start(task, token, printed, log)
        timed_out = True  # if we cannot tell
        try:
            timed_out = self._attend(running, began)
        finally:
            status = self._end(running)
            if timed_out:
                groups.end_survivors(token)
        printed.finish()
        code = os.waitstatus_to_exitcode(status)
        return Exit(code if code >= 0 else None, -code if code < 0 else None, timed_out, printed.tail)

    def kill(self) -> None:
        """End what runs now, if anything does; nothing is started after it. From any thread."""
        with self._lock:
            self._over = True
            if self._running is not None:
                groups.end(self._running.pgid)
                groups.end_survivors(self._running.token)

    def _start(self, task: Task, token: str, printed: Printed, log: Any) -> "_Running":
        variables = facts(task, token)
        if len(variables[b"WQ_HEADERS"]) > _MOST_HEADERS:
            _omit_headers(variables, log)
        waits = iter(_PATIENCE)
        while True:
            try:
                return self._spawn(task.body, variables, token, printed)
            except OSError as error:
                # All arguments and variables have a quarter of the stack's limit; only the headers are the message's.
                if error.errno == errno.E2BIG and b"WQ_HEADERS" in variables:
                    _omit_headers(variables, log)
                    continue
                wait = next(waits, None)
                if wait is None:
                    raise self._failure(error) from error
            time.sleep(wait)

    def _spawn(self, body: bytes, variables: Mapping[bytes, bytes], token: str, printed: Printed) -> "_Running":
        """Start it; returns when the program has been executed.

        The pipes are new ones each time: what an earlier run left behind may still write to the old ones.
        """
        ours: dict[int, str] = {}
        theirs: list[int] = []
        try:
            theirs.append(_file_in_memory(body))
            for stream in ("stdout", "stderr"):
                reader, writer = os.pipe()
                ours[reader] = stream
                theirs.append(writer)
            with self._lock:
                if self._over:
                    raise UnusableError(f"{self._key}: not started, as the worker is about to leave")
                self._announce(ABOUT_TO_START)
                pid = os.posix_spawn(
                    self._path,
                    self._argv,
                    {**variables, **self._environment},
                    file_actions=[(os.POSIX_SPAWN_DUP2, theirs[target], target) for target in range(3)],
                    setpgroup=0,
                    setsigmask=(),
                    setsigdef=_ALL_SIGNALS,
                )
                self._running = _Running(pid, token, ours, printed)
                self._announce(pid)
                return self._running
        except BaseException:
            self._announce(0)
            for descriptor in ours:
                os.close(descriptor)
            raise
        finally:
            for descriptor in theirs:
                os.close(descriptor)

    def _attend(self, running: "_Running", began: float) -> bool:
        """Wait until the leader has ended, and make it end at the limit; returns whether that was necessary.

        The end of the output means nothing: something in the background may hold the pipes open for ever.
        """
        over = float("inf") if self._time_limit is None else began + self._time_limit
        steps = [(over, running.terminate), (over + self._kill_after, running.kill), (float("inf"), running.kill)]
        timed_out = False
        ended = os.pidfd_open(running.pgid)
        try:
            running.poll.register(ended, select.POLLIN)
            while True:
                deadline, step = steps[0]
                seconds = min(deadline - time.monotonic(), _LONGEST_WAIT)
                ready = [descriptor for descriptor, _ in running.poll.poll(max(0.0, seconds * 1000))]
                running.read(ready)
                if ended in ready:
                    return timed_out
                if time.monotonic() >= deadline:
                    timed_out = True
                    step()
                    del steps[0]
        finally:
            running.poll.unregister(ended)
            os.close(ended)

    def _end(self, running: "_Running") -> int:
        """End what is left of the group, reap its leader, read what it printed last; returns the wait status."""
        with self._lock:
            running.kill()
            self._running = None
            self._announce(0)
        _, status = os.waitpid(running.pgid, 0)
        running.read_rest()
        return status

    def _failure(self, error: OSError) -> WorkqueuedError:
        """What to raise when it cannot be started: what is wrong, and what to do."""
        number, reason = error.errno, error.strerror
        if number == errno.ENOENT and Path(self._path).exists():
            reason = "the interpreter in its first line (#!) does not exist"
        elif number == errno.ENOENT:
            reason = "it is gone; put it back"
        elif number == errno.ENOEXEC:
            reason = "it is neither a program for this machine nor a script with an interpreter in its first line (#!)"
        elif number == errno.EACCES:
            reason = "permission denied: chmod +x, the folders above it, or a file system that is mounted noexec"
        elif number == errno.E2BIG:
            reason = "its arguments and the environment are too long"
        elif number == errno.EMFILE:
            reason = "the worker has too many open files; raise limits.nofile"
        text = f"{self._key}: cannot start {self._path}: {reason}"
        return TemporaryError(text) if number in _PASSING else UnusableError(text)


@dataclass(slots=True)
class _Running:
    """A command that runs.

    Attributes:
        pgid: its process group, which is its leader's pid.
        token: of this run.
        streams: the pipes that are still open, by our descriptor.
        printed: where its output goes.
    """

    pgid: int
    token: str
    streams: dict[int, str]
    printed: Printed
    poll: "select.poll"

    def __init__(self, pgid: int, token: str, streams: dict[int, str], printed: Printed) -> None:
        self.pgid, self.token, self.streams, self.printed = pgid, token, streams, printed
        self.poll = select.poll()
        for descriptor in streams:
            self.poll.register(descriptor, select.POLLIN)

    def terminate(self) -> None:
        """Ask it to end; a stopped program has to go on for that."""
        groups.signal_group(self.pgid, signal.SIGTERM)
        groups.signal_group(self.pgid, signal.SIGCONT)

    def kill(self) -> None:
        """End it."""
        groups.end(self.pgid)

    def read(self, ready: list[int]) -> None:
        """Read from the pipes among some descriptors, once each: poll says that it will not block."""
        for descriptor in ready:
            if descriptor in self.streams:
                data = os.read(descriptor, _CHUNK)
                if data:
                    self.printed.feed(self.streams[descriptor], data)
                else:
                    self._close(descriptor)

    def read_rest(self) -> None:
        """Read what is in the pipes without waiting for more, and close them."""
        for _ in range(_MOST_READS):
            ready = [descriptor for descriptor, _ in self.poll.poll(0)] if self.streams else []
            if not ready:
                break
            self.read(ready)
        for descriptor in list(self.streams):
            self._close(descriptor)

    def _close(self, descriptor: int) -> None:
        self.poll.unregister(descriptor)
        os.close(descriptor)
        del self.streams[descriptor]


def _omit_headers(variables: dict[bytes, bytes], log: Any) -> None:
    log.warning("headers.omitted", bytes=len(variables.pop(b"WQ_HEADERS")))


def _file_in_memory(body: bytes) -> int:
    """A descriptor from which a program reads the body."""
    descriptor = os.memfd_create("body")
    try:
        rest = memoryview(body)
        while rest:  # one write takes 2 GiB at most
            rest = rest[os.write(descriptor, rest) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _close_others_on_exec() -> None:
    """Ours are closed at exec already; what we inherited (a lock, a log file) is no business of a command either."""
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names are all we need
        if int(name) > 2:
            with contextlib.suppress(OSError):
                os.set_inheritable(int(name), False)  # noqa: FBT003 - its only argument
