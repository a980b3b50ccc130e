"""The configuration: what the YAML file may say, and the values that everything else works with.

Runs in: every process; read once by the command that starts, and by the master on reload.

Each key is declared once, with its reader, its default and the words that explain it; the sections have a module
each, `broker_settings`, `queue_settings` and `monitor_settings`.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from workqueued import tls
from workqueued.broker_settings import Broker
from workqueued.credentials import with_password
from workqueued.errors import ConfigError
from workqueued.monitor_settings import Log, Monitor
from workqueued.paths import RUN_DIRECTORY, SYSTEM_FILE
from workqueued.queue_settings import MOST_WORKERS, Queue, check_queue_name
from workqueued.readers import duration, one_or_more, path_beside_file
from workqueued.schema import key, load, mapping_of, read_section


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole file. `file` is where it was read, so that a reload reads it again."""

    queues: Mapping[str, Queue] = key(
        mapping_of(Queue, check_queue_name, what="queue with a handler"),
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
        default=RUN_DIRECTORY,
    )
    pythonpath: tuple[Path, ...] = key(
        one_or_more(path_beside_file("a path"), "one path or a list of them", least=0),
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
    if config.broker.tls is not None:
        try:  # a mistake in these files is to be found before a start, as any other
            tls.context(config.broker.tls)
        except ConfigError as error:
            raise ConfigError(f"{file}: {error}") from error.__cause__
    return dataclasses.replace(config, broker=with_password(file, config.broker), file=file.absolute())
