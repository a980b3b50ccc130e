"""`wq-broker`: a private RabbitMQ node in the foreground, for people without a broker.

Runs in: its own process.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from workqueued import __version__
from workqueued.child import die_with_parent
from workqueued.errors import WorkqueuedError
from workqueued.node import BrokerError, Node

#: Where a node lives that was given no directory.
_STATE = "$XDG_STATE_HOME/workqueued/broker, or the same in ~/.local/state"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(os.EX_USAGE, f"{self.format_usage()}{self.prog}: {message}\n")


def _port(text: str) -> int:
    if text.isdecimal() and 0 < int(text) < 65536:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a port (1 to 65535)")


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = _Parser(
        prog="wq-broker",
        description="Run a private RabbitMQ node in the foreground; its URL is the one line on stdout.",
    )
    add = parser.add_argument
    add("--directory", metavar="DIR", type=Path, help=f"where it lives (default: {_STATE})")
    add("--port", metavar="N", type=_port, help="its AMQP port, remembered (default: a free one)")
    add("--quiet", action="store_true", help="print the URL and errors only")
    add("--version", action="version", version=f"%(prog)s {__version__}")
    return parser


def _default_directory() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state", "workqueued", "broker").expanduser()


def _interrupt(number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt(signal.Signals(number).name)


def _run(arguments: argparse.Namespace) -> None:
    """Run the node until it ends or we are told to; a second signal does not wait for its orderly stop."""

    def say(text: str) -> None:
        if not arguments.quiet:
            print(text, file=sys.stderr, flush=True)

    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        if not die_with_parent(os.getppid()):
            raise KeyboardInterrupt("the parent is gone")
        begin = time.monotonic()
        node = Node(arguments.directory or _default_directory(), port=arguments.port)
        say(f"starting RabbitMQ in {node.directory} …")
        with node:
            print(node.url, flush=True)
            say(f"ready after {time.monotonic() - begin:.1f} s; Ctrl-C stops it. For the YAML file:")
            say(f"    broker:\n      url: {node.url}")
            status = node.wait()
            raise BrokerError(f"RabbitMQ ended by itself, status {status}; its log:\n{node.log_tail()}")
    except KeyboardInterrupt as request:
        say(f"stopped ({request})")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `wq-broker`; returns its exit status."""
    arguments = make_parser().parse_args(argv)
    try:
        _run(arguments)
    except WorkqueuedError as error:
        print(f"wq-broker: {error}", file=sys.stderr)
        return error.exit_code
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main())
