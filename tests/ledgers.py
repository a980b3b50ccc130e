"""Handlers for the tests. Each writes what it did to a file of the test's, one O_APPEND write a line."""

import asyncio
import contextlib
import ctypes
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from workqueued import Reject, Retry, Task


def note(task: Task, what: str) -> None:
    """Append a line to the ledger."""
    entry = {
        "what": what,
        "body": task.body.decode(errors="replace"),
        "id": task.message_id,
        "pid": os.getpid(),
        "at": time.monotonic(),
        "redelivered": task.redelivered,
        "attempt": task.attempt,
    }
    path = Path(os.environ["WQ_TEST_DIRECTORY"]) / "ledger"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, json.dumps(entry).encode() + b"\n")
    os.close(descriptor)


def wait_for(file: str) -> None:
    """Until it is there."""
    while not Path(file).exists():
        time.sleep(0.02)


def work(task: Task) -> None:
    """Sleep for as many seconds as the body's first word says, if it is a number; `wait`: until there is a file."""
    note(task, "started")
    with contextlib.suppress(ValueError, IndexError):
        words = task.text.split()
        if words[0] == "wait":
            wait_for(words[1])
        else:
            time.sleep(float(words[0]))
    note(task, "finished")


def tell_environment(_task: Task) -> None:
    """Print which of a few variables there are."""
    print(sorted(name for name in os.environ if name.startswith(("NOTIFY", "WATCHDOG", "MINE"))))


def until_released(task: Task) -> None:
    """Wait for the file `release`; one whose body is `reject` is hopeless."""
    if task.text == "reject":
        raise Reject("hopeless")
    while not (Path(os.environ["WQ_TEST_DIRECTORY"]) / "release").exists():
        time.sleep(0.02)


async def work_async(task: Task) -> None:
    """An async handler."""
    note(task, "finished")


class Counting:
    """A handler that is built once per worker."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, task: Task) -> None:
        """Count and note."""
        self.calls += 1
        note(task, f"call {self.calls}")
        note(task, "finished")


def misbehave(task: Task) -> None:  # noqa: PLR0912, PLR0915 - a list of all that can go wrong
    """Do what the body says."""
    note(task, "started")
    match task.text:
        case "raise":
            raise ValueError("no\nsuch\nluck")
        case "reject":
            raise Reject("bad address")
        case "sys.exit":
            sys.exit(3)
        case "interrupt":
            raise KeyboardInterrupt
        case "generator exit":
            raise GeneratorExit
        case "unprintable":
            raise UnprintableError
        case "print":
            print("one line\nand another")
            print("to stderr", file=sys.stderr)
        case "fork":
            if os.fork() == 0:
                return
            os.wait()
        case "signals":
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            signal.set_wakeup_fd(-1)
        case "exit":
            os._exit(9)
        case "exit 77":
            os._exit(77)
        case "real-time signal":
            os.kill(os.getpid(), signal.SIGRTMIN + 1)
        case "multiprocessing":
            process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
            process.start()
            process.terminate()
            process.join(10)
            assert process.exitcode == -signal.SIGTERM, process.exitcode
        case "mask":
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        case "thread":
            thread = threading.Thread(target=lambda: task.log.info("thread.spoke"))
            thread.start()
            thread.join()
        case "log an exception":
            try:
                raise LookupError("caught")
            except LookupError:
                task.log.exception("code.failed")
        case "stdout for a program":
            subprocess.run(["true"], stdout=sys.stdout, stderr=sys.stderr, check=True)
            sys.stdout.buffer.write(b"bytes\n")
        case "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
    note(task, "finished")


def by_word(task: Task) -> None:  # noqa: PLR0912 - a list
    """Do what the body's first word says; the others are its arguments."""
    note(task, "started")
    word, *arguments = task.text.split()
    match word:
        case "fail":  # until the attempt of that number
            if task.attempt < int(arguments[0]):
                raise ValueError(f"attempt {task.attempt} fails")
        case "retry":  # after so many seconds, once
            if task.attempt == 1:
                raise Retry("not yet", delay=float(arguments[0]))
        case "sleep":
            time.sleep(float(arguments[0]))
        case "wait":  # until there is such a file
            wait_for(arguments[0])
        case "burn":
            end = time.monotonic() + float(arguments[0])
            while time.monotonic() < end:
                pass
        case "stubborn":  # takes no exception for an answer
            while True:
                with contextlib.suppress(BaseException):
                    time.sleep(60)
        case "hold":  # the GIL, in C
            hold_the_interpreter(float(arguments[0]))
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "json":
            task.json()
        case "binary":
            raise ValueError(f"cannot connect to postgres://app:{'hunter2'}@db/app")
        case "environment":
            note(task, os.environ.get("GREETING", "nothing"))
        case "close":  # every descriptor, also those that are ours
            os.closerange(3, 256)
        case "chdir":
            os.chdir("/")
        case "flood":
            for _ in range(20):
                print("\n".join(["x" * 99] * 10_000))
        case "alarm":
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
    note(task, "finished")


def hold_the_interpreter(seconds: float) -> None:
    """Run C code that does not let go of the GIL: ctypes.PyDLL calls sleep(3) without releasing it."""
    ctypes.PyDLL(None).usleep(int(seconds * 1_000_000))


async def by_word_async(task: Task) -> None:
    """The same, for what can be awaited."""
    note(task, "started")
    await asyncio.sleep(float(task.text.split()[1]))
    note(task, "finished")


class Closing:
    """A handler that cleans up after itself."""

    def __call__(self, task: Task) -> None:
        """Note."""
        self.last = task
        note(task, "finished")

    def close(self) -> None:
        """Note."""
        note(self.last, "closed")


class ClosingSlowly(Closing):
    """One that needs a while for it."""

    def close(self) -> None:
        """Note, wait, note."""
        note(self.last, "closing")
        until_released(self.last)
        super().close()


class UnprintableError(Exception):
    """An exception that cannot be shown."""

    def __str__(self) -> str:
        raise RuntimeError("not even this")


not_callable = 42


def takes_none() -> None:
    """A function that takes no task."""


def returns_coroutine(task: Task) -> Any:
    """A function that forgets to await."""
    return work_async(task)
