"""The systems under test: how each is started, and how messages for it look. Fair to each, by its own documentation.

Each takes one message at a time and acknowledges it by hand when the handler is done; all messages are persistent.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pika
import yaml

from bench.wire import frames
from workqueued.delivery import ENQUEUED_AT, new_message_id

BENCH = Path(__file__).parent
_BIN = Path(sys.executable).parent
#: Stands in a template where each message has an id of its own.
_ID = "00000000-0000-4000-8000-000000000000"


@dataclass(frozen=True, slots=True)
class Job:
    """What a system is to do."""

    queue: str
    kind: str
    workers: int
    handler: str
    url: str
    port: int
    counters: Path
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """What handlers and apps read."""
        return {
            "WQ_BENCH_QUEUE": self.queue,
            "WQ_BENCH_TYPE": self.kind,
            "WQ_BENCH_URL": self.url,
            "WQ_BENCH_COUNTERS": str(self.counters),
            "WQ_BENCH_HANDLER": self.handler,
            "dramatiq_queue_prefetch": "1",
        }


def _no_arguments(_queue: str) -> dict[str, Any]:
    return {}


def _one_each(workers: int) -> int:
    return workers


@dataclass(frozen=True, slots=True)
class System:
    """A system under test.

    Attributes:
        name: in the tables.
        command: starts it.
        rate: tasks/s of one worker, at a guess: how many messages are laid in.
        speaks: whose messages it reads.
        arguments: of its queue, by the queue's name.
        consumers: how many the broker sees for so many workers.
        counts: its handler counts; else the queue's depth has to tell.
    """

    name: str
    command: Callable[[Job], list[str]]
    rate: int
    speaks: str = "workqueued"
    arguments: Callable[[str], Mapping[str, Any]] = _no_arguments
    consumers: Callable[[int], int] = _one_each
    counts: bool = True

    def messages(self, queue: str, bodies: list[bytes]) -> Callable[[int], bytes]:
        """Makes the frames of message number n."""
        write = {"workqueued": _plain, "celery": _celery, "dramatiq": _dramatiq}[self.speaks]
        templates = [frames(queue, *write(queue, body)) for body in bodies]
        token = _ID.encode()
        return lambda n: templates[n % len(templates)].replace(token, f"{n:08x}{_ID[8:]}".encode())


# --- messages --------------------------------------------------------------------------------------------------------


def _plain(_queue: str, body: bytes) -> tuple[bytes, pika.BasicProperties]:
    """As wq-send writes it."""
    assert len(new_message_id()) == len(_ID)  # noqa: S101 - else the template lies about its length
    now = time.time()
    headers = {ENQUEUED_AT: int(now * 1000)}
    return body, pika.BasicProperties(delivery_mode=2, message_id=_ID, timestamp=int(now), headers=headers)


def _celery(_queue: str, body: bytes) -> tuple[bytes, pika.BasicProperties]:
    """Message protocol 2, as apply_async writes it."""
    headers = {
        "lang": "py", "task": "bench.task", "id": _ID, "shadow": None, "eta": None, "expires": None, "group": None,
        "group_index": None, "retries": 0, "timelimit": [None, None], "root_id": _ID, "parent_id": None,
        "argsrepr": "('x',)", "kwargsrepr": "{}", "origin": "gen1@host", "ignore_result": True,
        "replaced_task_nesting": 0,
    }  # fmt: skip
    options = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    data = json.dumps([[body.decode()], {}, options]).encode()
    properties = pika.BasicProperties(
        "application/json", "utf-8", headers, 2, 0, correlation_id=_ID, reply_to="11111111-1111-4111-8111-111111111111"
    )
    return data, properties


def _dramatiq(queue: str, body: bytes) -> tuple[bytes, pika.BasicProperties]:
    """As Message.encode writes it."""
    message = {
        "queue_name": queue, "actor_name": "task", "args": [body.decode()], "kwargs": {}, "options": {},
        "message_id": _ID, "message_timestamp": int(time.time() * 1000),
    }  # fmt: skip
    return json.dumps(message, separators=(",", ":")).encode(), pika.BasicProperties(delivery_mode=2)


# --- commands --------------------------------------------------------------------------------------------------------


def _workqueued(queue: dict[str, Any], settled: str = "info") -> Callable[[Job], list[str]]:
    def command(job: Job) -> list[str]:
        callee = queue or {"handler": f"bench.bench_handlers:{job.handler}"}
        settings = {
            "broker": {"url": job.url},
            "queues": {job.queue: {**callee, "type": job.kind, "workers": job.workers}},
            "run_directory": "run",
            "pythonpath": str(BENCH.parent),
            "log": {"format": "json", "settled": settled},
            "monitor": {"listen": "none"},
        }
        file = job.folder / "workqueued.yaml"
        file.write_text(yaml.safe_dump(settings))
        return [str(_BIN / "workqueued"), "--config", str(file)]

    return command


def _loop(*words: str) -> Callable[[Job], list[str]]:
    def command(job: Job) -> list[str]:
        places = {"folder": job.folder.parent, "port": job.port, "queue": job.queue, "counters": job.counters}
        filled = [word.format(**places, slot="{slot}", url=job.url) for word in words]
        return [sys.executable, "-m", "bench.loops", str(job.workers), str(job.port), job.queue, *filled]

    return command


def _celery_worker(job: Job) -> list[str]:
    return [
        sys.executable, "-m", "celery", "-A", "bench.celery_app", "worker", "--pool=prefork", f"-c{job.workers}",
        "-O", "fair", "--prefetch-multiplier=1", "--without-gossip", "--without-mingle", "--without-heartbeat",
        "-l", "WARNING",
    ]  # fmt: skip


def _dramatiq_worker(job: Job) -> list[str]:
    return [
        sys.executable, "-m", "dramatiq", "bench.dramatiq_app", "-p", str(job.workers), "-t", "1", "-Q", job.queue,
        "--path", ".",
    ]  # fmt: skip


def _dramatiq_arguments(queue: str) -> dict[str, Any]:
    return {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": f"{queue}.XQ"}


def _one(_workers: int) -> int:
    return 1


INFO = System("workqueued", _workqueued({}), 4500)
DEBUG = System("workqueued, settled: debug", _workqueued({}, "debug"), 6000)
C = System("C, librabbitmq", _loop("{folder}/consumer", "{port}", "{queue}", "{counters}", "{slot}"), 9000)
RAW = System("Python, bare socket", _loop("raw"), 8000)
PIKA = System("pika BlockingConnection", _loop("pika"), 4500)
DRAMATIQ = System("Dramatiq", _dramatiq_worker, 2500, "dramatiq", _dramatiq_arguments)
CELERY = System("Celery", _celery_worker, 2000, "celery", consumers=_one)
HANDLERS = [C, RAW, DEBUG, INFO, PIKA, DRAMATIQ, CELERY]

_AFTER_A_SECOND = {"attempts": 2, "first": "1s", "factor": 1, "jitter": 0}
FAILING_ONCE = System(
    "workqueued, retries", _workqueued({"handler": "bench.bench_handlers:fail_once", "retry": _AFTER_A_SECOND}), 1000
)

# A program for each message. cat, as amqp-consume dies of SIGPIPE when the program ends before it has read the body.
COMMAND = System("workqueued, command: [/bin/cat]", _workqueued({"command": ["/bin/cat"]}), 1000, counts=False)
AMQP_CONSUME = System(
    "amqp-consume /bin/cat",
    _loop("amqp-consume", "--url={url}", "--queue={queue}", "--prefetch-count=1", "/bin/cat"),
    1500,
    counts=False,
)
COMMANDS = [AMQP_CONSUME, COMMAND]
