"""Finding a handler: what may be one, and what is said when it is none."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ledgers
import pytest

from workqueued import Task
from workqueued.delivery import Delivery, Properties
from workqueued.errors import ConfigError
from workqueued.handlers import Handlers, resolve

TESTS = Path(ledgers.__file__).parent

TASK = Task(Delivery("task_queue", 1, b"body", Properties()), None)

MODULE = """
import functools

calls = []

def plain(task):
    calls.append(("plain", task.body))
    return "ignored"

async def later(task):
    calls.append(("later", task.body))

class Counting:
    def __init__(self):
        calls.append(("built", None))

    def __call__(self, task):
        calls.append(("counting", task.body))

    def method(self, task):
        calls.append(("method", task.body))

    @staticmethod
    def static(task):
        calls.append(("static", task.body))

    @classmethod
    def of_class(cls, task):
        calls.append(("of_class", task.body))

class Later:
    async def __call__(self, task):
        calls.append(("Later", task.body))

one = Counting()
with_keyword = functools.partial(lambda task, word: calls.append((word, task.body)), word="partial")

async def with_word(word, task):
    calls.append((word, task.body))

later_partial = functools.partial(with_word, "later_partial")

@functools.lru_cache
def cached(task):
    calls.append(("cached", task.body))

def optional(task, retries=3, *rest, **more):
    calls.append(("optional", retries))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder for handler modules; sys.path and sys.modules are as before afterwards."""
    path, modules = list(sys.path), set(sys.modules)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def refused(spec: str, *folders: Path) -> str:
    """What is said about a handler that is none."""
    with pytest.raises(ConfigError) as caught:
        resolve(spec, folders)
    message = str(caught.value)
    assert message.startswith(f"handler {spec}: ")
    assert "\n" not in message
    return message.removeprefix(f"handler {spec}: ")


@pytest.mark.parametrize(
    ("name", "calls"),
    [
        ("plain", [("plain", b"body")]),
        ("later", [("later", b"body")]),
        ("Counting", [("counting", b"body")]),
        ("Later", [("Later", b"body")]),
        ("one", [("counting", b"body")]),
        ("one.method", [("method", b"body")]),
        ("Counting.static", [("static", b"body")]),
        ("Counting.of_class", [("of_class", b"body")]),
        ("with_keyword", [("partial", b"body")]),
        ("later_partial", [("later_partial", b"body")]),
        ("cached", [("cached", b"body")]),
        ("optional", [("optional", 3)]),
    ],
)
def test_a_handler_may_be_anything_that_takes_a_task(folder: Path, name: str, calls: list[Any]) -> None:
    """Functions, async or not, classes, instances, methods, partials."""
    (folder / "wq_some.py").write_text(MODULE)
    handlers = Handlers({"default": f"wq_some:{name}"}, [folder])
    module = sys.modules["wq_some"]
    module.calls.clear()
    handlers.call(TASK)
    assert module.calls == calls
    handlers.close()


def test_an_async_handler_leaves_nothing_to_await(folder: Path) -> None:
    """A coroutine that nobody awaits does nothing, and its message would be acknowledged."""
    (folder / "wq_some.py").write_text(MODULE)
    for name in ("later", "Later", "later_partial"):
        handlers = Handlers({"default": f"wq_some:{name}"}, [folder])
        assert handlers.call(TASK) is None
        handlers.close()


def test_a_class_is_built_once(folder: Path) -> None:
    """Connections and models live as long as the worker."""
    (folder / "wq_some.py").write_text(MODULE)
    handler = resolve("wq_some:Counting", [folder])
    handler(TASK)
    handler(TASK)
    assert [what for what, _ in sys.modules["wq_some"].calls].count("built") == 2  # once for `one`, once for us


def test_what_a_handler_raises_comes_out(folder: Path) -> None:
    """It is the outcome's to judge."""
    (folder / "wq_raises.py").write_text("async def later(task):\n    raise LookupError\n")
    handlers = Handlers({"default": "wq_raises:later"}, [folder])
    with pytest.raises(LookupError):
        handlers.call(TASK)
    handlers.close()


def test_a_folder_of_pythonpath_goes_before_the_installed_packages(folder: Path) -> None:
    """And the first one before the second; none is put in twice."""
    first, second = folder / "first", folder / "second"
    for one in (first, second):
        one.mkdir()
        (one / "wq_twice.py").write_text(f"def handle(task):\n    return {one.name!r}\n")
    (second / "wq_second.py").write_text("def handle(task):\n    return 'second'\n")
    assert resolve("wq_twice:handle", [first, second])(TASK) == "first"
    assert resolve("wq_second:handle", [first, second])(TASK) == "second"
    assert sys.path[:2] == [str(first), str(second)]
    assert sys.path.count(str(first)) == 1


def test_a_missing_module_is_named_with_where_it_was_looked_for(folder: Path) -> None:
    """And what to do about it."""
    message = refused("wq_absent:handle", folder)
    assert message == (
        f"there is no module wq_absent; looked in {folder} and the packages of {sys.prefix}. "
        "Install it there, or name its folder under pythonpath in the YAML file"
    )
    assert f"looked in the packages of {sys.prefix}" in refused("wq_absent.tasks:handle")


def test_a_missing_submodule_is_told_from_a_missing_package(folder: Path) -> None:
    """The package is there, its tasks are not."""
    (folder / "wq_package").mkdir()
    (folder / "wq_package" / "__init__.py").touch()
    assert refused("wq_package.tasks:handle", folder).startswith("there is no module wq_package.tasks; ")


def test_a_module_that_needs_a_missing_one_is_told_apart(folder: Path) -> None:
    """Else one looks for the wrong file."""
    (folder / "wq_needs.py").write_text("import wq_absent\n")
    assert refused("wq_needs:handle", folder) == "importing wq_needs needs the module wq_absent, not found"


@pytest.mark.parametrize(
    ("spec", "missing"),
    [
        ("ledgers:wrok", f"there is no 'wrok' in {ledgers.__file__}"),
        ("ledgers:Counting.wrok", "there is no 'wrok' in Counting"),
        ("ledgers:work.", "there is no '' in work"),
        ("ledgers:not_callable", "it is of type int, which cannot be called"),
        ("ledgers:json", "it is of type module, which cannot be called"),
        ("ledgers:takes_none", "it must take one argument, the task; it takes () -> None"),
        ("ledgers:Counting.__call__", "it must take one argument, the task; it takes (self, task: "),
    ],
)
def test_a_name_that_is_no_handler_is_told_why(spec: str, missing: str) -> None:
    """Missing, not callable, or of another signature."""
    assert refused(spec).startswith(missing)


@pytest.mark.parametrize("spec", ["ledgers..x:handle", "ledgers.:handle", "ledgers:work.__code__.co_name.x"])
def test_an_odd_spec_is_refused_and_no_crash(spec: str) -> None:
    """The configuration lets any word with dots pass."""
    refused(spec)


@pytest.mark.parametrize(
    ("code", "spec"),
    [
        ("def handle(task):\n    yield task\n", "handle"),
        ("async def handle(task):\n    yield task\n", "handle"),
        ("class Handle:\n    def __call__(self, task):\n        yield task\n", "Handle"),
        ("import functools\nhandle = functools.partial(lambda word, task: (yield), 'x')\n", "handle"),
    ],
)
def test_a_generator_is_refused(folder: Path, code: str, spec: str) -> None:
    """A call of it returns at once and runs nothing: the message would be acknowledged, its task never done."""
    (folder / "wq_yields.py").write_text(code)
    message = refused(f"wq_yields:{spec}", folder)
    assert message == "it has a yield, so a call would not run it; make it a plain function"


def test_a_module_that_raises_is_named_with_file_and_line() -> None:
    """An operator sees at once what is not configured, and where."""
    assert refused("raises_on_import:handle") == (
        "importing raises_on_import raised RuntimeError: the database is not configured "
        f"({TESTS / 'raises_on_import.py'}:3)"
    )


@pytest.mark.parametrize(
    ("code", "raised"),
    [
        ("import sys\nsys.exit('no settings')\n", "raised SystemExit: no settings ({file}:2)"),
        ("raise KeyboardInterrupt\n", "raised KeyboardInterrupt ({file}:1)"),
        ("from json import absent\n", "raised ImportError: cannot import name 'absent' from 'json'"),
        ("\n\ndef handle(task)\n", "raised SyntaxError: expected ':' (wq_broken.py, line 3)"),
        ("def f(): return 1 / 0\n\nf()\n", "raised ZeroDivisionError: division by zero ({file}:1)"),
        ("raise RuntimeError('two\\nlines')\n", "raised RuntimeError: two lines ({file}:1)"),
    ],
)
def test_whatever_an_import_raises_is_a_configuration_error(folder: Path, code: str, raised: str) -> None:
    """SystemExit included: it would end the worker with a code that means something else."""
    file = folder / "wq_broken.py"
    file.write_text(code)
    message = refused("wq_broken:handle", folder)
    assert message.startswith("importing wq_broken " + raised.format(file=file))
    assert "importlib" not in message


def test_a_class_that_cannot_be_built_is_named_with_file_and_line(folder: Path) -> None:
    """It may want arguments, or a database."""
    file = folder / "wq_builds.py"
    file.write_text("class Handle:\n    def __init__(self):\n        raise OSError('no database')\n")
    assert refused("wq_builds:Handle", folder) == f"building Handle() raised OSError: no database ({file}:3)"


def test_an_attribute_that_raises_is_a_configuration_error(folder: Path) -> None:
    """A module with a __getattr__ may import something then, which fails."""
    file = folder / "wq_lazy.py"
    file.write_text("def __getattr__(name):\n    raise ImportError('no driver')\n")
    assert refused("wq_lazy:handle", folder) == f"looking up 'handle' raised ImportError: no driver ({file}:2)"


def test_a_builtin_without_a_signature_is_let_pass() -> None:
    """The first task will tell."""
    assert resolve("builtins:max") is max  # type: ignore[comparison-overlap]
