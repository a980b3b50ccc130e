"""The rig: one private broker, and on it one system after the other, each with counters of its own."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pika

from bench import machine
from bench.counters import Counters
from bench.systems import BENCH, Job, System
from bench.wire import Connection
from workqueued.node import Node

#: The counters are no files on a disk, which would be written back now and then.
_MEMORY = Path("/dev/shm")  # noqa: S108 - a name of our own below it


@dataclass(slots=True)
class Running:
    """A system at work, beside so many consumers of others."""

    process: subprocess.Popen[bytes]
    counters: Counters
    log: Path
    started: float
    beside: int

    @property
    def done(self) -> int:
        """Tasks so far."""
        return sum(self.counters.counts)

    @property
    def processes(self) -> list[int]:
        """The one that was started and all below it."""
        return list(machine.tree(self.process.pid))

    def pause(self) -> None:
        """Stop every process, from the top: a stopped one forks no more."""
        self._signal(machine.tree(self.process.pid), signal.SIGSTOP)

    def resume(self) -> None:
        """Go on."""
        self._signal(self.processes, signal.SIGCONT)

    @staticmethod
    def _signal(pids: Iterable[int], number: signal.Signals) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # a program that a handler started ends any moment
                os.kill(pid, number)


class Rig:
    """The broker and a scratch folder."""

    def __init__(self, scratch: Path, node: Node) -> None:
        self.node = node
        self.scratch = scratch
        self._jobs = 0
        parameters = pika.URLParameters(node.url)
        parameters.heartbeat = 0  # nobody would answer while we wait
        self._connection = pika.BlockingConnection(parameters)
        self.channel: Any = self._connection.channel()
        for program in ("consumer", "publisher"):
            source = BENCH / f"{program}.c"
            subprocess.run(["gcc", "-O2", "-o", scratch / program, source, "-lrabbitmq"], check=True)  # noqa: S607

    def declare(self, system: System, kind: str, purpose: str) -> str:
        """Declare a queue for a system; those that read the same messages share it. Returns its name."""
        queue = f"{purpose}.{system.speaks}.{kind}"
        arguments = {"x-queue-type": kind, **system.arguments(queue)}
        self.channel.queue_declare(queue, durable=True, arguments=arguments)
        return queue

    def look(self, queue: str) -> tuple[int, int]:
        """Messages that are ready, and consumers."""
        told = self.channel.queue_declare(queue, passive=True).method
        return told.message_count, told.consumer_count

    def fill(self, system: System, queue: str, count: int, bodies: list[bytes]) -> None:
        """Put messages as the system's own producer writes them into a queue, with these bodies in turn."""
        if count > 0:
            connection = Connection(self.node.port)
            connection.publish(system.messages(queue, bodies), count)
            connection.close()

    @contextlib.contextmanager
    def run(self, system: System, queue: str, kind: str, workers: int, handler: str = "nothing") -> Iterator[Running]:
        """A system for the length of a block; then all its processes are killed."""
        self._jobs += 1
        folder = self.scratch / f"job-{self._jobs}"
        folder.mkdir()
        memory = _MEMORY / f"wq-bench-{os.getpid()}-{self._jobs}"
        memory.mkdir()
        job = Job(queue, kind, workers, handler, self.node.url, self.node.port, memory / "counters", folder)
        counters, log = Counters.create(job.counters), folder / "log"
        beside = self.look(queue)[1]
        with log.open("wb") as output:
            process = subprocess.Popen(
                system.command(job),
                env={**os.environ, **job.environment},
                cwd=BENCH.parent,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            yield Running(process, counters, log, time.monotonic(), beside)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # all at once, so that nobody is replaced
            process.wait()
            shutil.rmtree(memory)
            shutil.rmtree(folder)
            self.wait(lambda: self.look(queue)[1] <= beside, f"{system.name} to be gone")

    def await_workers(self, running: Running, system: System, queue: str, workers: int) -> float:
        """Wait until all are there; returns seconds since the start."""

        def ready() -> bool:
            if running.process.poll() is not None:
                raise SystemExit(f"bench: {system.name} ended:\n{running.log.read_text(errors='replace')[-2000:]}")
            there = self.look(queue)[1] - running.beside
            return there >= system.consumers(workers) and len(running.processes) > workers

        self.wait(ready, f"{workers} workers of {system.name}", pause=0.004)
        return time.monotonic() - running.started

    @staticmethod
    def wait(condition: Callable[[], bool], what: str, within: float = 60, pause: float = 0.01) -> None:
        """Wait for a condition; give up loudly."""
        deadline = time.monotonic() + within
        while not condition():
            if time.monotonic() > deadline:
                raise SystemExit(f"bench: waited {within:g} s in vain for {what}")
            time.sleep(pause)
