"""Section `queues` of the configuration: a work queue, who serves it, and what becomes of a message that fails.

Runs in: every process.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from workqueued.plain import as_plain
from workqueued.readers import (
    argv,
    boolean,
    choice,
    duration,
    integer,
    named,
    number,
    one_or_named,
    parsed,
    show_size,
    size,
)
from workqueued.schema import Shape, key, read_section

#: Ending of a dead queue's name.
DEAD_SUFFIX = ".dead"
#: Rows of a scoreboard are limited, and a rolling reload needs two per worker.
MOST_WORKERS = 1000
#: AMQP short strings hold 255 bytes; the dead queue's name must fit as well.
_LONGEST_NAME = 255 - len(DEAD_SUFFIX)
_HANDLER = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_VARIABLE = re.compile(r"[A-Za-z_]\w*")
#: RabbitMQ gives an unacknowledged message to somebody else after so many seconds, unless the operator changed
#: `consumer_timeout` (rabbitmq.com, "Delivery Acknowledgement Timeout"). It looks once a minute.
ACK_TIMEOUT = 1800.0
#: Stands in a mapping of handlers for every type that has none of its own.
DEFAULT_HANDLER = "default"
#: What a worker gets beyond kill_after to end its command and settle, seconds.
_COMMAND_GRACE = 10.0


def _check_handler(text: str) -> str:
    if not _HANDLER.fullmatch(text):
        raise ValueError("the module and the callable in it are joined by a colon")
    return text


def _check_variable(name: str) -> str | None:
    if not _VARIABLE.fullmatch(name):
        return "expected the name of an environment variable: letters, digits and _"
    if name.startswith("WQ_"):
        return "names that begin with WQ_ are ours"
    return None


def _check_value(text: str) -> str:
    if "\0" in text:
        raise ValueError("no program can be given a NUL character")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Section `queues.<name>.retry`: how often a failed message is tried, and after how long."""

    attempts: int = key(
        integer(1, 1000), "how often a message is tried in all before it goes to the dead queue", default=5
    )
    first: float = key(duration("0s", "30d"), "the delay before the second attempt", default=10.0)
    factor: float = key(number(1, 100), "each further delay is so many times the one before", show=float, default=3.0)
    max: float = key(duration("0s", "180d"), "the longest delay", default=3600.0)
    jitter: float = key(
        number(0, 1),
        "the part of a delay by which it may be longer, so that not all come back at once",
        show=float,
        default=0.1,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Recycling:
    """Section `queues.<name>.recycle`: when a worker is replaced between two messages."""

    tasks: int | None = key(
        integer(1, 100_000_000), "after so many messages, or up to a tenth fewer", default=None
    )
    memory: int | None = key(size("16M", "1T"), "once it has so much resident memory", show=show_size, default=None)
    age: float | None = key(duration("1s", "365d"), "after so long, or up to a tenth less", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Section `queues.<name>.limits`: what a worker, or the command that it runs, may use."""

    memory: int | None = key(size("16M", "1T"), "address space (RLIMIT_AS)", show=show_size, default=None)
    cpu: float | None = key(
        duration("1s", "30d"), "processor time of one run of a command (RLIMIT_CPU)", default=None
    )
    nofile: int | None = key(integer(32, 1_000_000), "open files (RLIMIT_NOFILE)", default=None)
    nice: int | None = key(integer(-20, 19), "how nice it is to other processes (nice(2))", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """Section `queues.<name>`: one work queue and the workers that serve it."""

    handler: str | Mapping[str, str] | None = key(
        one_or_named(
            parsed(_check_handler, "module:callable, such as myapp.tasks:resize", f"^{_HANDLER.pattern}$"),
            lambda name: None if name else "expected the AMQP type of a message, or default",
            "module:callable, or a mapping from the AMQP type of a message to one",
        ),
        "module:callable, or a mapping from the AMQP type of a message to one; `default` stands for every other type",
        default=None,
    )
    command: tuple[str, ...] | None = key(
        argv("a list such as [/usr/local/bin/resize, --quiet]; no shell runs it"),
        "a program and its arguments, instead of a handler: body on stdin, verdict in the exit code",
        default=None,
    )
    environment: Mapping[str, str] | None = key(
        named(parsed(_check_value, "text (a number or a truth value in quotes)"), _check_variable),
        "environment variables for the handler or the command",
        show=lambda variables: variables and dict.fromkeys(variables, "***"),
        default=None,
    )
    time_limit: float | None = key(
        duration("100ms", "365d", "none"),
        "how long a handler may take for one message; then TimeLimitExceeded is raised in it, a command gets SIGTERM",
        show=lambda seconds: "none" if seconds is None else as_plain(seconds),
        default=1500.0,
    )
    kill_after: float = key(
        duration("0s", "1h"), "how long after time_limit a handler or a command is killed", default=30.0
    )
    retry: RetryPolicy = key(read_section(RetryPolicy), "what happens after a failure", default=RetryPolicy())
    crashes: int = key(
        integer(1, 100), "how many workers a message may take down before it goes to the dead queue", default=3
    )
    recycle: Recycling = key(read_section(Recycling), "when a worker is replaced", default=Recycling())
    limits: Limits = key(read_section(Limits), "what a worker or a command may use", default=Limits())
    type: str = key(choice("quorum", "classic"), "the kind of queue on the broker", default="quorum")
    declare: str = key(
        choice("plain", "false"),
        "plain: declare the queue, durable and of its type; false: take it as it is",
        default="plain",
    )
    workers: int = key(
        integer(1, MOST_WORKERS, " (to stop a queue's workers say paused: true)"),
        "how many worker processes serve the queue",
        default=1,
    )
    redeliveries: int = key(
        integer(1, 15),
        "how often the broker may give a message out again before it goes to the dead queue",
        default=10,
    )
    paused: bool = key(boolean(), "true: no worker takes messages; they wait in the queue", default=False)

    @property
    def active_workers(self) -> int:
        """How many workers there are to be now."""
        return 0 if self.paused else self.workers

    @property
    def hard_limit(self) -> float | None:
        """Seconds after which the master kills a worker that is still busy with one message; None: never.

        A command is killed by its worker at time_limit + kill_after; the master comes in when the worker hangs.
        """
        if self.time_limit is None:
            return None
        return self.time_limit + self.kill_after + (_COMMAND_GRACE if self.command else 0.0)

    @property
    def handlers(self) -> Mapping[str, str]:
        """The handlers by AMQP type; one for all stands under `default`."""
        if self.handler is None:
            return {}
        return {DEFAULT_HANDLER: self.handler} if isinstance(self.handler, str) else self.handler

    #: What `contradictions` says, for the JSON Schema.
    COMBINATIONS: ClassVar[Shape] = {
        "oneOf": [
            {
                "required": ["handler"],
                "properties": {
                    "handler": {"not": {"type": "null"}},
                    "limits": {"properties": {"cpu": {"type": "null"}}},
                },
            },
            {"required": ["command"], "properties": {"command": {"not": {"type": "null"}}}},
        ]
    }

    @staticmethod
    def contradictions(given: Mapping[str, Any]) -> list[tuple[str, str]]:
        """What is wrong with keys that are right one by one, as (key, text).

        Args:
            given: the keys that the file has; None stands for a value that is wrong itself.
        """
        found = []
        if "handler" not in given and "command" not in given:
            found.append(
                ("handler", "missing; expected module:callable, such as handler: myapp.tasks:resize (or a command)")
            )
        if "handler" in given and "command" in given:
            found.append(("command", "a queue has a handler or a command, not both"))
        limits = given.get("limits")
        if limits is not None and limits.cpu is not None and "command" not in given:
            found.append(
                ("limits.cpu", "is for commands only: processor time adds up over a worker's life; see time_limit")
            )
        return found


def doubt_of_ack_timeout(name: str, queue: Queue) -> tuple[str, str] | None:
    """Where a task may take longer than the broker by default waits for an ack: what is doubtful, and what lifts it."""
    limit = queue.hard_limit
    if limit is not None and limit < ACK_TIMEOUT:
        return None
    milliseconds = 31_622_400_000 if limit is None else math.ceil(limit * 1.1 + 60) * 1000
    shown = "none" if queue.time_limit is None else f"{queue.time_limit:g}s and kill_after {queue.kill_after:g}s"
    doubt = (
        f"queues.{name}.time_limit: {shown}, and RabbitMQ by default takes a message back that is not acknowledged "
        f"for {ACK_TIMEOUT / 60:g} minutes, and gives it to another worker"
    )
    policy = f"'^{re.escape(name)}$' '{{\"consumer-timeout\": {milliseconds}}}'"
    remedy = (
        f"unless it was done already: rabbitmqctl set_policy --apply-to queues {name}-ack-timeout {policy} "
        f"(RabbitMQ 3.13 and later), or consumer_timeout = {milliseconds} in rabbitmq.conf (any version)"
    )
    return doubt, remedy


def check_queue_name(name: str) -> str | None:
    """What is wrong with the name of a work queue, or None."""
    if not name or not name.isprintable():
        return "expected a printable name"
    if len(name.encode()) > _LONGEST_NAME:
        return f"the name is longer than {_LONGEST_NAME} bytes"
    if name.startswith("amq."):
        return "names that begin with amq. belong to the broker"
    return None
