"""Where: which broker and which queue a command means, from `--config`, `--url`, `--queue` and the environment."""

import argparse
import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workqueued.broker_settings import Broker
from workqueued.cli.arguments import seconds
from workqueued.config import Config, read_config
from workqueued.errors import ConfigError, UsageError
from workqueued.paths import GROUP, SYSTEM_FILE, find_config
from workqueued.queue_settings import DEAD_SUFFIX, Queue
from workqueued.schema import redact
from workqueued.urls import BrokerUrl

#: Bytes of an AMQP short string.
_LONGEST_NAME = 255


@dataclass(frozen=True, slots=True)
class Where:
    """A broker, and what the configuration says of its queues."""

    broker: Broker
    queues: Mapping[str, Queue]
    url: str | None
    config: Path | None


def add_arguments(parser: argparse.ArgumentParser, default: Any = None) -> None:
    """Add the options.

    Args:
        parser: to it.
        default: `argparse.SUPPRESS` where the options may stand in a second place as well.
    """
    parser.add_argument(
        "--queue",
        metavar="NAME",
        default=default,
        help="the work queue, or its dead queue (default: the only one of the configuration)",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        default=default,
        help=f"the YAML file (default: $WQ_CONFIG, or {SYSTEM_FILE})",
    )
    where.add_argument(
        "--url", metavar="URL", default=default, help="the broker, instead of the configuration's (default: $WQ_URL)"
    )
    parser.add_argument(
        "--timeout",
        type=seconds,
        metavar="DURATION",
        default=default or 30.0,
        help="how long to wait for a broker that does not answer or confirm (default: 30s)",
    )


def find(options: argparse.Namespace) -> Where:
    """The broker that is meant.

    Raises:
        ConfigError: the configuration or the URL is wrong.
    """
    url = address(options)
    if url:
        return Where(_in_time(Broker(url=(_parse(url),)), options.timeout), {}, url, None)
    file = options.config or find_config()
    loaded = read(file)
    return Where(_in_time(loaded.broker, options.timeout), loaded.queues, None, file)


def address(options: argparse.Namespace) -> str | None:
    """The broker's URL, if the command is to do without a configuration."""
    return options.url or (os.environ.get("WQ_URL") if options.config is None else None)


def read(file: Path) -> Config:
    """The configuration, or why it cannot be read, in the words of somebody who may just not be allowed to.

    Raises:
        ConfigError: it is wrong, or cannot be read.
    """
    try:
        return read_config(file)
    except ConfigError as error:
        if isinstance(error.__cause__, PermissionError):
            raise ConfigError(
                f"{error}; ask to be put into group {GROUP}, or set WQ_URL=amqp://user:password@host"
            ) from error
        raise


def _in_time(broker: Broker, timeout: float) -> Broker:
    return dataclasses.replace(broker, connect_timeout=min(broker.connect_timeout, timeout))


def _parse(url: str) -> BrokerUrl:
    try:
        return BrokerUrl.parse(url)
    except ValueError as error:
        raise ConfigError(
            f"url: found {redact(url)!r}, expected amqp://user:password@host:5672/%2F ({error})"
        ) from error


def pick_queue(where: Where, name: str | None) -> tuple[str, str]:
    """The work queue that is meant, and its dead queue.

    Raises:
        UsageError: none is named, and the configuration has not exactly one; or it cannot be a queue's name.
    """
    if name is None:
        if len(where.queues) != 1:
            there = ", ".join(where.queues)
            known = f"there are {there}" if there else "with a URL (or $WQ_URL) there is no default"
            raise UsageError(f"which queue? Name one with --queue: {known}")
        name = next(iter(where.queues))
    if name not in where.queues:
        name = name.removesuffix(DEAD_SUFFIX)
    try:
        length = len((name + DEAD_SUFFIX).encode())
    except UnicodeEncodeError as error:
        raise UsageError(f"--queue: found {name!r}, expected a name in UTF-8") from error
    if not name or length > _LONGEST_NAME:
        raise UsageError(f"--queue: expected a name of 1 to {_LONGEST_NAME - len(DEAD_SUFFIX)} bytes")
    return name, name + DEAD_SUFFIX
