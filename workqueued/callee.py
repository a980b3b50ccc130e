"""What handles the messages of a queue: handlers in Python, or a command.

Runs in: worker, on the main thread.
"""

import inspect
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workqueued import groups, limits
from workqueued.command import Command
from workqueued.delivery import Delivery
from workqueued.handlers import Handlers
from workqueued.logs import log
from workqueued.outcome import Result, describe, one_line
from workqueued.queue_settings import Queue
from workqueued.scoreboard import Cell, Row
from workqueued.task import Task


class Callee:
    """Ready to be called, in a process with the queue's environment and limits.

    Args:
        queue_name: the queue.
        queue: its settings.
        pythonpath: folders in which handler modules are looked for first.
        row: where a command's process group is written down.
        logger: takes what a command prints.

    Raises:
        ConfigError: the handler or the command cannot be used.
    """

    def __init__(self, queue_name: str, queue: Queue, pythonpath: Sequence[Path], row: Row, logger: Any) -> None:
        os.environ.update(queue.environment or {})
        refused = limits.apply(queue.limits, for_command=queue.command is not None)
        if refused:
            log.warning("limits.refused", error="; ".join(refused))
        self._queue = queue
        self._row = row
        self._command = None if queue.command is None else Command(queue_name, queue, self._announce, logger)
        self._handlers = Handlers(queue.handlers, pythonpath, queue.time_limit)

    def _announce(self, group: int) -> None:
        self._row.words[Cell.COMMAND] = group

    def call(self, task: Task) -> Result:
        """Have a message handled; returns how a command ended, or None. Raises whatever the handler raises."""
        if self._command is not None:
            words = self._row.words
            run = groups.token(os.getpid(), words[Cell.STARTED], words[Cell.DELIVERED])
            return self._command.run(task, run)
        returned = self._handlers.call(task)
        if returned is not None and (inspect.iscoroutine(returned) or inspect.isgenerator(returned)):
            returned.close()
            raise TypeError(f"the handler returned a {type(returned).__name__}, and nobody runs it")
        return None

    @property
    def timed_out(self) -> bool:
        """Whether the last call of a handler was interrupted by the time limit."""
        return self._handlers.limit.fired

    def restore(self) -> bool:
        """Undo what a handler did to the time limit's signal; returns whether it had to be."""
        return self._handlers.limit.restore()

    def name(self, delivery: Delivery) -> str:
        """The handler for a message as the configuration names it, or the program; for eyes."""
        if self._queue.command is not None:
            return self._queue.command[0]  # not its arguments, which may hold a secret
        return self._handlers.spec(delivery.properties.type)

    def kill(self) -> None:
        """End the command that runs, if one does; no other will be started. From any thread."""
        if self._command is not None:
            self._command.kill()

    def close(self) -> None:
        """Let handlers clean up. Never raises."""
        try:
            self._handlers.close()
        except BaseException as error:  # noqa: BLE001 - user code, and it must not look like a crash
            log.warning("handler.unclosed", error=one_line(describe(error)))
