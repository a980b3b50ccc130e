"""The stage of a chaos run: a broker, a relay in front of it, supervisord with the daemon, and two senders."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pika
import yaml
from harness import alive
from relay import Relay
from supervised import Supervisor

from chaos.books import WARM_UP
from workqueued.errors import WorkqueuedError
from workqueued.node import Node
from workqueued.scoreboard import Cell, Head, Kind, Row, Scoreboard, State
from workqueued.sender import Sender

MAIN, VICTIM = "task_queue", "victim"
_TESTS = Path(__file__).parents[1]
#: A quorum queue tells its depth to rabbitmqctl every 5 s only.
_QUIET_FOR = 11.0
_AT_WORK = (State.IDLE, State.BUSY, State.SETTLING)
#: Where the daemon logs in; the senders are guest, so that taking away the daemon's rights leaves theirs.
USER, PASSWORD = "fleet", "secret"

@dataclass(frozen=True)
class Plan:
    """What a run is to be.

    Attributes:
        rate: messages a second to the main queue.
        tasks: end when so many were confirmed; 0: after `minutes`.
        faults: at least so many, whatever the time.
    """

    seed: int
    type: str
    rate: float
    workers: int
    minutes: float = 0
    tasks: int = 0
    faults: int = 0
    only: str = ""
    handler: str = "chaos.handler:handle"
    recycle: Mapping[str, int | str] = field(default_factory=lambda: {"tasks": 20_000, "memory": "150M"})


class World:
    """All that runs, with the handles to it."""

    def __init__(self, directory: Path, node: Node, relay: Relay, plan: Plan) -> None:
        self.directory, self.node, self.relay, self.plan = directory, node, relay, plan
        self.chance = random.Random(plan.seed)
        self.workers = plan.workers
        #: How many messages were taken out of the victim queue, by our own hand.
        self.removed = 0
        self.supervisor: Supervisor
        self.senders: list[subprocess.Popen[bytes]] = []
        self._eye: pika.BlockingConnection | None = None

    # --- the daemon -------------------------------------------------------------------------------------------------

    def write_config(self, **changes: Any) -> None:
        """Write the YAML file for as many workers as there are to be."""
        url = f"amqp://{USER}:{PASSWORD}@127.0.0.1:{self.relay.port}/%2F"
        queue = {
            "handler": self.plan.handler,
            "type": self.plan.type,
            "time_limit": "2s",
            "kill_after": "1s",
            "retry": {"attempts": 3, "first": "1s", "factor": 1},
            "recycle": dict(self.plan.recycle),
        }
        settings = {
            "broker": {"url": url, "heartbeat": "5s"},
            "queues": {MAIN: {**queue, "workers": self.workers}, VICTIM: {**queue, "workers": 1}},
            "run_directory": str(self.directory),
            "pythonpath": str(_TESTS),
            "drain_timeout": "5s",
            "monitor": {"interval": "5s"},
            **changes,
        }
        (self.directory / "workqueued.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))

    def start_supervisord(self) -> None:
        """As systemd would."""
        directory = self.directory
        self.supervisor = Supervisor(
            directory, directory / "workqueued.yaml", directory / "workqueued.log", WQ_CHAOS_DIRECTORY=str(directory)
        )

    def reload(self) -> None:
        """SIGHUP to the master."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.master, signal.SIGHUP)

    @contextlib.contextmanager
    def board(self) -> Iterator[Scoreboard | None]:
        """The scoreboard of the master of this moment; None when there is none."""
        try:
            yield Scoreboard.open(self.directory)
        except WorkqueuedError:
            yield None

    @property
    def master(self) -> int:
        """The master's pid; waits for one."""
        while True:
            with self.board() as board:
                if board is not None and alive(board[Head.MASTER_PID]):
                    return board[Head.MASTER_PID]
            time.sleep(0.02)

    def children(self, kind: Kind, queue: str = "") -> list[int]:
        """The pids of the master's children of a kind; of workers, those of a queue."""
        with self.board() as board:
            rows = [] if board is None else [row for row in board.rows(kind) if _is_of(row, queue)]
            return [row.words[Cell.PID] for row in rows if alive(row.words[Cell.PID])]

    def at_work(self) -> list[int]:
        """The workers of the main queue that say that they consume, and live."""
        with self.board() as board:
            rows = [] if board is None else [row for row in board.rows(Kind.WORKER) if _is_of(row, MAIN)]
            pids = [row.words[Cell.PID] for row in rows if row.state in _AT_WORK]
            return [pid for pid in pids if alive(pid)]

    # --- the broker -------------------------------------------------------------------------------------------------

    def consumers(self, queue: str = MAIN) -> int:
        """How many consumers the broker has for a queue; -1 when it does not say."""
        try:
            with self.direct().channel() as channel:
                return int(channel.queue_declare(queue, passive=True).method.consumer_count)
        except pika.exceptions.ChannelClosedByBroker:
            return -1
        except (pika.exceptions.AMQPError, OSError, ValueError):
            self._eye = None
            return -1

    def direct(self) -> pika.BlockingConnection:
        """A connection to the broker past the relay, as guest."""
        if self._eye is None or not self._eye.is_open:
            parameters = pika.URLParameters(self.node.url)
            parameters.socket_timeout = parameters.stack_timeout = 3
            parameters.heartbeat = 0  # nobody serves it for minutes
            self._eye = pika.BlockingConnection(parameters)
        return self._eye

    def is_quiet(self) -> bool:
        """Whether nothing is ready, unacknowledged or delayed, in any queue that is no dead queue."""
        listed = self.node.ctl("list_queues", "--no-table-headers", "name", "messages").splitlines()
        counts = dict(line.rsplit("\t", 1) for line in listed if "\t" in line)
        return all(count == "0" for name, count in counts.items() if not name.endswith("dead"))

    def await_rest(self, within: float) -> str:
        """Wait until nothing is on its way; returns what still is."""
        deadline = time.monotonic() + within
        busy = time.monotonic()
        while time.monotonic() < deadline:
            try:
                if not self.is_quiet():
                    busy = time.monotonic()
            except WorkqueuedError:
                busy = time.monotonic()
            if time.monotonic() - busy > _QUIET_FOR:
                return ""
            time.sleep(1)
        return self.node.ctl("list_queues", "name", "messages_ready", "messages_unacknowledged", "consumers")

    def take_dead(self, queue: str) -> Iterator[bytes]:
        """The bodies in a dead queue, which is empty afterwards."""
        with self.direct().channel() as channel:
            while True:
                method, _, body = channel.basic_get(f"{queue}.dead")
                if method is None:
                    return
                yield body
                channel.basic_ack(method.delivery_tag)

    # --- the senders ------------------------------------------------------------------------------------------------

    def start_senders(self) -> None:
        """The load on the main queue, and a little on the one that is deleted and purged."""
        for queue, rate, tasks in ((MAIN, self.plan.rate, self.plan.tasks), (VICTIM, 20.0, 0)):
            (self.directory / queue).mkdir()
            url = f"amqp://guest:guest@127.0.0.1:{self.relay.port}/%2F"
            words = [url, str(self.directory / queue), queue, str(self.plan.seed), str(rate), str(tasks), "5000"]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(_TESTS), str(_TESTS.parent)])}
            command = [sys.executable, "-m", "chaos.load", *words]
            self.senders.append(subprocess.Popen(command, env=environment, start_new_session=True))

    @property
    def load_is_over(self) -> bool:
        """Whether the main sender has sent all that it should."""
        return self.senders[0].poll() is not None

    def stop_senders(self) -> None:
        """In order: what they have sent and not yet written down is waited for."""
        for sender in self.senders:
            sender.terminate()
        for sender in self.senders:
            sender.wait(60)

    def finished(self) -> int:
        """How many bytes the handlers of the main queue wrote down: it grows with each message that is finished."""
        return sum(path.stat().st_size for path in (self.directory / MAIN).glob("finished.*"))

    def close(self) -> None:
        """End what is left."""
        with contextlib.suppress(pika.exceptions.AMQPError):
            if self._eye is not None and self._eye.is_open:
                self._eye.close()
        self.stop_senders()
        self.supervisor.close()


def _is_of(row: Row, queue: str) -> bool:
    return not queue or (row.name or "").rpartition("/")[0] == queue


@contextlib.contextmanager
def stage(directory: Path, node: Node, plan: Plan) -> Iterator[World]:
    """A world that runs: all workers consume, the queues are old enough to be killed (rabbitmq-server#15725)."""
    with node, Relay(node.port) as relay:
        node.ctl("add_user", USER, PASSWORD)
        node.ctl("set_permissions", USER, ".*", ".*", ".*")
        world = World(directory, node, relay, plan)
        world.write_config()
        world.start_supervisord()
        try:
            deadline = time.monotonic() + 60
            while world.consumers() != plan.workers or world.consumers(VICTIM) != 1:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"the daemon does not consume, see {directory}/workqueued.log")
                time.sleep(0.1)
            with Sender(node.url) as sender:  # all levels that retries will use, and the outbox of each queue
                for queue in (MAIN, VICTIM):
                    sender.send(WARM_UP, queue=queue, delay=3)
            time.sleep(6)
            world.start_senders()
            yield world
        finally:
            world.close()
