"""Find a handler and make it callable.

Runs in: worker, after the fork, so that a reload picks up new code; `workqueued --check`, in a child.
"""

import asyncio
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from workqueued.errors import ConfigError
from workqueued.outcome import describe, one_line
from workqueued.task import Task

Handler = Callable[[Task], Any]


def resolve_all(specs: Mapping[str, str], pythonpath: Sequence[Path] = ()) -> Mapping[str, Handler]:
    """The handlers of a queue by AMQP type; what is named twice is resolved once. Errors as for `resolve`."""
    found = {spec: resolve(spec, pythonpath) for spec in dict.fromkeys(specs.values())}
    return {kind: found[spec] for kind, spec in specs.items()}


def resolve(spec: str, pythonpath: Sequence[Path] = ()) -> Handler:
    """Import `module:callable` and make it a plain function of a Task.

    A class is built once, here; an `async def` runs in an event loop of its own for each task.

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
    return _runner(target)


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


def _runner(target: Any) -> Handler:
    if not any(map(inspect.iscoroutinefunction, _code_of(target))):
        return target  # type: ignore[no-any-return]

    def run_async(task: Task) -> None:
        asyncio.run(target(task))

    return run_async
