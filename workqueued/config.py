"""The configuration: what the YAML file may say, and the values that everything else works with.

Runs in: every process; read once by the command that starts, and by the master on reload.

Each key is declared once, with its reader, its default and the words that explain it.
"""

import dataclasses
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from workqueued.errors import ConfigError
from workqueued.schema import (
    boolean,
    choice,
    duration,
    integer,
    key,
    load,
    mapping_of,
    one_or_more,
    parsed,
    path_beside_file,
    read_section,
)

#: Where an installed service keeps its configuration.
SYSTEM_FILE = Path("/etc/workqueued/workqueued.yaml")
#: Ending of a dead queue's name.
DEAD_SUFFIX = ".dead"
#: Rows of a scoreboard are limited, and a rolling reload needs two per worker.
MOST_WORKERS = 1000
#: AMQP short strings hold 255 bytes; the dead queue's name must fit as well.
_LONGEST_NAME = 255 - len(DEAD_SUFFIX)
_HANDLER = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


@dataclass(frozen=True, slots=True)
class BrokerUrl:
    """One broker address, `amqp://user:password@host:port/vhost`; the password never shows in its repr."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    vhost: str = "/"

    @classmethod
    def parse(cls, text: str) -> "BrokerUrl":
        """Read a URL.

        Raises:
            ValueError: it is no AMQP URL.
        """
        try:
            url = urlsplit(text)
            port = url.port
            text.encode()  # an environment variable may hold bytes that are no UTF-8
        except ValueError:
            # Not "from error", and without its text: it quotes what may be the password.
            hint = "host and port must be a name and a number; / @ : in a password are written %2F %40 %3A"
            raise ValueError(hint) from None
        if url.scheme == "amqps":
            raise ValueError("TLS is not supported yet, so the scheme must be amqp")
        if url.scheme != "amqp":
            raise ValueError("the scheme must be amqp")
        if not url.hostname:
            raise ValueError("the host is missing")
        if url.query or url.fragment:
            raise ValueError("nothing may follow the vhost; options such as heartbeat are keys of broker:")
        vhost = url.path.removeprefix("/")
        if "/" in vhost:
            raise ValueError("a / in the vhost is written %2F")
        return cls(
            host=url.hostname,
            port=port or 5672,
            user=unquote(url.username) if url.username is not None else "guest",
            password=unquote(url.password) if url.password is not None else "guest",
            vhost=unquote(vhost) or "/",
        )

    def __str__(self) -> str:
        """The URL for eyes and logs: without the password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"amqp://{quote(self.user, safe='')}:***@{host}:{self.port}/{quote(self.vhost, safe='')}"


_DEFAULT_URL = BrokerUrl("127.0.0.1", 5672, "guest", "guest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """Section `broker`: where the broker is and how long to believe in a silent one."""

    url: tuple[BrokerUrl, ...] = key(
        one_or_more(
            parsed(BrokerUrl.parse, "a URL such as amqp://user:password@host:5672/%2F"),
            "one URL or a list of them",
        ),
        "one URL, or a list that is tried in order",
        default=(_DEFAULT_URL,),
    )
    password_file: Path | None = key(
        path_beside_file("the path of a file that holds the password"),
        "file whose first line is the password; it takes the place of the one in the URL",
        default=None,
    )
    heartbeat: float = key(
        duration("2s", "10m"),
        "AMQP heartbeat; a hung peer is noticed after 1 to 2 times (heartbeat + 5 s)",
        default=30.0,
    )
    connect_timeout: float = key(
        duration("100ms", "5m"), "how long one attempt to connect to one host may take", default=10.0
    )


def _check_handler(text: str) -> str:
    if not _HANDLER.fullmatch(text):
        raise ValueError("the module and the callable in it are joined by a colon")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """Section `queues.<name>`: one work queue and the workers that serve it."""

    handler: str = key(
        parsed(_check_handler, "module:callable, such as myapp.tasks:resize"),
        "expected module:callable, such as handler: myapp.tasks:resize",
    )
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Monitor:
    """Section `monitor`."""

    interval: float = key(duration("100ms", "1h"), "how often queue.depth is logged", default=10.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """Section `log`."""

    level: str = key(
        choice("debug", "info", "warning", "error"), "the least severe events that are logged", default="info"
    )
    format: str = key(
        choice("auto", "json", "console"), "auto: console on a terminal, json elsewhere", default="auto"
    )


def _check_queue_name(name: str) -> str | None:
    if not name or not name.isprintable():
        return "expected a printable name"
    if len(name.encode()) > _LONGEST_NAME:
        return f"the name is longer than {_LONGEST_NAME} bytes"
    if name.startswith("amq."):
        return "names that begin with amq. belong to the broker"
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole file. `file` is where it was read, so that a reload reads it again."""

    queues: Mapping[str, Queue] = key(
        mapping_of(Queue, _check_queue_name, what="queue with a handler"),
        "expected at least one queue with a handler",
    )
    broker: Broker = key(read_section(Broker), "where the broker is", default=Broker())
    drain_timeout: float = key(
        duration("0s", "1d"), "how long a stop waits for running tasks before it hands them back", default=30.0
    )
    monitor: Monitor = key(read_section(Monitor), "how the queues are watched", default=Monitor())
    log: Log = key(read_section(Log), "what is logged and how", default=Log())
    run_directory: Path = key(
        path_beside_file("a path"),
        "lock, pid file and scoreboard; one running master each",
        default=Path("/run/workqueued"),
    )
    pythonpath: tuple[Path, ...] = key(
        one_or_more(path_beside_file("a path"), "one path or a list of them"),
        "folders in which handler modules are looked for first",
        default=(),
    )
    file: Path = field(default=SYSTEM_FILE)

    @property
    def drain_margin(self) -> float:
        """Seconds between the hand-back at the drain timeout and SIGKILL: time to tell the broker."""
        return 5.0


def read_config(file: Path) -> Config:
    """Read and check a configuration file.

    Raises:
        ConfigError: the text lists every mistake.
    """
    config = load(file, Config)
    workers = sum(queue.workers for queue in config.queues.values())
    if workers > MOST_WORKERS:
        raise ConfigError(f"{file}: queues: {workers} workers in all, expected at most {MOST_WORKERS}")
    broker = config.broker
    if broker.password_file is not None:
        password = _read_password(file, broker.password_file)
        urls = tuple(dataclasses.replace(url, password=password) for url in broker.url)
        broker = dataclasses.replace(broker, url=urls)
    return dataclasses.replace(config, broker=broker, file=file.absolute())


def _read_password(file: Path, password_file: Path) -> str:
    try:
        password = password_file.read_text(encoding="utf-8").partition("\n")[0]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(f"{file}: broker.password_file: cannot read {password_file}: {reason}") from error
    if not password:
        raise ConfigError(f"{file}: broker.password_file: the first line of {password_file} is empty")
    return password


def find_config() -> Path:
    """The configuration of a command that was given none.

    `$WQ_CONFIG`, or the one that belongs to this Python environment (`etc/workqueued/` under `sys.prefix`, as a
    virtual environment's own), or the system's.
    """
    chosen = os.environ.get("WQ_CONFIG")
    if chosen:
        return Path(chosen)
    own = Path(sys.prefix) / "etc/workqueued/workqueued.yaml"
    # Resolved: it may be a link to a file whose own folder is what its relative paths are meant from.
    return own.resolve() if own.exists() else SYSTEM_FILE


def as_plain(value: Any) -> Any:
    """A configuration value as plain data for YAML or JSON, passwords redacted."""
    if isinstance(value, BrokerUrl | Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        keys = [f.name for f in dataclasses.fields(value) if "read" in f.metadata]
        return {name: as_plain(getattr(value, name)) for name in keys}
    if isinstance(value, Mapping):
        return {name: as_plain(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return [as_plain(item) for item in value]
    if isinstance(value, float):
        return f"{value:g}s"
    return value
