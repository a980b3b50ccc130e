"""`workqueued`: the daemon, and the checks an operator makes before starting it.

The composition root: here the master is handed what its children do.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from workqueued import __version__, credentials, doubts, journal
from workqueued.cli.arguments import Parser
from workqueued.config import Config, read_config
from workqueued.doubts import Doubt
from workqueued.errors import ConfigError, WorkqueuedError
from workqueued.logs import configure, log
from workqueued.paths import SYSTEM_FILE
from workqueued.plain import as_plain
from workqueued.queue_settings import Queue, doubt_of_ack_timeout
from workqueued.signals import name_of


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    try:
        options = make_parser().parse_args(argv)
        if options.print_schema:
            return _print_schema()
        config = read_config(options.config)
    except WorkqueuedError as error:
        print(f"workqueued: {error}", file=sys.stderr)
        if "SUPERVISOR_ENABLED" in os.environ and journal.is_ours(os.environ):
            configure("info", "json", target="journal")  # else it would be in supervisord's file alone
            _tell_refusal(error)
        return error.exit_code
    if options.print_config:
        return _print_config(config)
    if options.check:
        return _check(config)
    try:
        configure(config.log.level, config.log.format, target=config.log.target)
        return _serve(config)
    except WorkqueuedError as error:
        _tell_refusal(error)
        return error.exit_code


def _tell_refusal(error: WorkqueuedError) -> None:
    log.error("master.refused", error=str(error), exit_code=error.exit_code)
    log.flush()


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(
        prog="workqueued",
        description="A pool of RabbitMQ workers: consume, handle, settle; supervised and observed.",
        epilog="Signals: TERM, INT drain and stop; QUIT hand back and stop; HUP reload; USR1 report the state. "
        "Exit codes: 0 stopped when asked, 64 wrong command line, 75 another master has the run directory, "
        "78 bad configuration.",
    )
    parser.add_argument(
        "--config", type=Path, default=SYSTEM_FILE, metavar="FILE", help="the YAML file (default: %(default)s)"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="check the file and import its handlers, then exit: 0 or 78")
    what.add_argument(
        "--print-config", action="store_true", help="print the configuration with all defaults, without passwords"
    )
    what.add_argument("--print-schema", action="store_true", help="print the JSON Schema of the file, for editors")
    parser.add_argument("--version", action="version", version=f"workqueued {__version__}")
    return parser


def _print_schema() -> int:
    import json

    from workqueued.json_schema import json_schema

    print(json.dumps(json_schema(), indent=2, ensure_ascii=False))
    return os.EX_OK


def _print_config(config: Config) -> int:
    import yaml

    print(yaml.safe_dump(as_plain(config), sort_keys=False), end="")
    return os.EX_OK


# --- the daemon ------------------------------------------------------------------------------------------------------


def _serve(config: Config) -> int:
    # Imported before the fork, so that the children share the pages. `encodings.idna` would otherwise be imported by
    # the first name resolution in every child.
    import encodings.idna  # noqa: F401

    from workqueued import monitor, worker
    from workqueued.master import Berth, Entries, Master

    def live_as_worker(berth: Berth) -> int:
        return worker.run(
            worker.Place(
                berth.config,
                berth.queue,
                berth.slot,
                berth.generation,
                berth.row,
                berth.lifeline,
                berth.hold,
                berth.board,
            )
        )

    def live_as_monitor(berth: Berth) -> int:
        return monitor.run(
            monitor.Post(berth.config, berth.generation, berth.row, berth.queue_rows, berth.board, berth.lifeline)
        )

    return Master(config, Entries(live_as_worker, live_as_monitor, read_config, __version__)).run()


# --- --check ---------------------------------------------------------------------------------------------------------


def _check(config: Config) -> int:
    """Say what would run, having imported each handler in a child of its own."""
    code = os.EX_OK
    print(f"{config.file}: well formed")
    print(f"broker         {', '.join(map(str, config.broker.url))}")
    print(f"run directory  {config.run_directory}")
    for name, queue in config.queues.items():
        workers = "paused" if queue.paused else f"{queue.workers} worker{'s' if queue.workers > 1 else ''}"
        declared = "" if queue.declare == "plain" else ", taken as it is"
        served = f"command {queue.command[0]}" if queue.command else f"handler {', '.join(queue.handlers.values())}"
        print(f"queue          {name}: {workers}, {queue.type}{declared}, {served}")
        doubt = doubt_of_ack_timeout(name, queue)
        if doubt is not None:
            _print_doubt("warning", doubt)
        sys.stdout.flush()
        if queue.command and not _command_resolves(name, queue):
            code = os.EX_CONFIG
        for spec in dict.fromkeys(queue.handlers.values()):
            if not _handler_resolves(spec, queue, config.pythonpath):
                code = os.EX_CONFIG
    for doubt in (*credentials.exposed(config.file, config.broker), *doubts.of_tls(config.broker)):
        _print_doubt("warning", doubt)
    for doubt in doubts.of_stop_times(config):
        _print_doubt("wrong", doubt)
        code = os.EX_CONFIG
    print("ok" if code == os.EX_OK else "not ok: see the messages above")
    return code


def _print_doubt(word: str, doubt: Doubt) -> None:
    print(f"{word:14} {doubt[0]}\n{'':14} {doubt[1]}")


def _command_resolves(name: str, queue: Queue) -> bool:
    from workqueued.command import Command

    try:
        Command(name, queue, lambda _group: None, log)
    except ConfigError as error:
        print(f"workqueued: {error}", file=sys.stderr)
        return False
    return True


def _handler_resolves(spec: str, queue: Queue, pythonpath: Sequence[Path]) -> bool:
    """Import a handler in a child, as its worker would: user code may print, hang on to things, or crash."""
    pid = os.fork()
    if pid == 0:
        code = os.EX_CONFIG
        try:
            from workqueued.handlers import resolve

            os.environ.update(queue.environment or {})
            resolve(spec, pythonpath)
            code = os.EX_OK
        except ConfigError as error:
            print(f"workqueued: {error}", file=sys.stderr)
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        number = name_of(os.WTERMSIG(status))
        print(f"workqueued: handler {spec}: importing it ended the process with {number}", file=sys.stderr)
    return status == 0


if __name__ == "__main__":
    sys.exit(main())
