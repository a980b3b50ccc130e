"""Find the handlers of a queue, and call the one that a message is for.

Runs in: worker, after the fork, so that a reload picks up new code; `workqueued --check`, in a child.
"""

import asyncio
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from workqueued.errors import ConfigError, Reject, TimeLimitExceeded
from workqueued.outcome import describe, one_line
from workqueued.queue_settings import DEFAULT_HANDLER
from workqueued.task import Task
from workqueued.timelimit import TimeLimit

#: What is called: a function of a Task, or the instance of a class.
Target = Callable[[Task], Any]


class Handlers:
    """The handlers of one queue, by AMQP type.

    Args:
        specs: `module:callable` by type; `default` stands for every type that has none of its own.
        pythonpath: folders to look in first.
        seconds: the time limit of a call, or None.

    Raises:
        ConfigError: as for `resolve`.
    """

    def __init__(self, specs: Mapping[str, str], pythonpath: Sequence[Path] = (), seconds: float | None = None) -> None:
        # What is named twice is resolved, and built, once.
        targets = {spec: resolve(spec, pythonpath) for spec in dict.fromkeys(specs.values())}
        self._targets = {kind: targets[spec] for kind, spec in specs.items()}
        self._specs = specs
        self._seconds = seconds
        self._asynchronous = {kind: is_asynchronous(target) for kind, target in self._targets.items()}
        self._runner: asyncio.Runner | None = None
        self.limit = TimeLimit(seconds)
        self.limit.install()

    def spec(self, kind: str | None) -> str:
        """The handler for a type, as it is named in the configuration; empty when there is none."""
        return self._specs.get(self._known(kind), "")

    def _known(self, kind: str | None) -> str:
        return kind if kind is not None and kind in self._specs else DEFAULT_HANDLER

    def call(self, task: Task) -> Any:
        """Call the handler for a task; returns what it returns, raises what it raises.

        Raises:
            Reject: nobody handles messages of this type.
            TimeLimitExceeded: it took too long.
        """
        kind = self._known(task.type)
        target = self._targets.get(kind)
        if target is None:
            raise Reject(f"no handler for type {task.type!r}; there are {', '.join(self._specs)}")
        if self._asynchronous[kind]:
            return self._call_asynchronous(target, task)
        return self.limit.call(target, task)

    def _call_asynchronous(self, target: Target, task: Task) -> None:
        """Run it in the worker's event loop, which lives as long as the worker, as clients are bound to theirs."""
        if self._runner is None:
            self._runner = asyncio.Runner()
        self.limit.fired = False

        async def limited() -> None:
            try:
                async with asyncio.timeout(self._seconds) as scope:
                    await target(task)
            except TimeoutError as error:
                if not scope.expired():
                    raise
                self.limit.fired = True
                raise TimeLimitExceeded(f"the time limit of {self._seconds:g} s") from error

        self._runner.run(limited())

    def close(self) -> None:
        """Let handlers built from a class clean up: their `close()`, if they have one. Raises what that raises."""
        for target in dict.fromkeys(self._targets.values()):
            close = getattr(target, "close", None)
            if close is None or inspect.isroutine(target):
                continue
            if inspect.iscoroutinefunction(close):
                self._runner = self._runner or asyncio.Runner()
                self._runner.run(close())
            else:
                close()
        if self._runner is not None:
            self._runner.close()


def resolve(spec: str, pythonpath: Sequence[Path] = ()) -> Target:
    """Import `module:callable`; a class is built, here and once.

    Raises:
        ConfigError: the module cannot be imported, or what it names cannot be called with a task.
    """
    module_name, _, path = spec.partition(":")
    for folder in reversed(pythonpath):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    target: Any = _import(module_name, spec, pythonpath)
    for name in path.split("."):
        try:
            target = getattr(target, name)
        except AttributeError as error:
            raise ConfigError(f"handler {spec}: {_describe_missing(target, name)}") from error
        except BaseException as error:  # a module's __getattr__, a property: user code
            raise ConfigError(
                f"handler {spec}: looking up {name!r} raised {one_line(describe(error))}{_innermost_place(error)}"
            ) from error
    if inspect.isclass(target):
        target = _build(target, spec)
    if not callable(target):
        raise ConfigError(f"handler {spec}: it is of type {type(target).__name__}, which cannot be called")
    if any(inspect.isgeneratorfunction(code) or inspect.isasyncgenfunction(code) for code in _code_of(target)):
        raise ConfigError(f"handler {spec}: it has a yield, so a call would not run it; make it a plain function")
    _check_signature(target, spec)
    return target  # type: ignore[no-any-return]


def _import(name: str, spec: str, pythonpath: Sequence[Path]) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            looked = [str(folder) for folder in pythonpath]
            hint = f"looked in {', '.join(looked)} and" if looked else "looked in"
            raise ConfigError(
                f"handler {spec}: there is no module {error.name}; {hint} the packages of {sys.prefix}. "
                "Install it there, or name its folder under pythonpath in the YAML file"
            ) from error
        raise ConfigError(f"handler {spec}: importing {name} needs the module {error.name}, not found") from error
    except BaseException as error:  # user code may raise anything, SystemExit included
        place = _innermost_place(error)
        raise ConfigError(f"handler {spec}: importing {name} raised {one_line(describe(error))}{place}") from error


def _innermost_place(error: BaseException) -> str:
    if isinstance(error, SyntaxError):  # raised by the compiler: its text says where
        return ""
    trace = error.__traceback__
    if trace is None:
        return ""
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f" ({trace.tb_frame.f_code.co_filename}:{trace.tb_lineno})"


def _describe_missing(target: Any, name: str) -> str:
    where = getattr(target, "__file__", None) or getattr(target, "__name__", target)
    return f"there is no {name!r} in {where}"


def _build(target: type[Any], spec: str) -> Any:
    try:
        return target()
    except BaseException as error:  # user code
        raise ConfigError(
            f"handler {spec}: building {target.__name__}() raised {one_line(describe(error))}"
            f"{_innermost_place(error)}"
        ) from error


def _check_signature(target: Any, spec: str) -> None:
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):
        return  # a builtin without a signature; the first task will tell
    try:
        signature.bind(object())
    except TypeError as error:
        raise ConfigError(f"handler {spec}: it must take one argument, the task; it takes {signature}") from error


def _code_of(target: Any) -> tuple[Any, Any]:
    """What may run when the target is called: itself (a function, a partial), or its class's `__call__`."""
    return target, type(target).__call__


def is_asynchronous(target: Any) -> bool:
    """Whether calling it makes a coroutine."""
    return any(map(inspect.iscoroutinefunction, _code_of(target)))
