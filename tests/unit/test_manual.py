"""The manual is what `make manual` makes, and tells all that there is."""

import re
from pathlib import Path

import pytest

from dev.completions import QUEUES, line_of
from dev.manpages import COMMANDS, parser_of
from dev.manual import manual

ROOT = Path(__file__).parents[2]
MADE = dict(manual())
PAGES = {path.name: text for path, text in MADE.items() if path.parent.name == "man"}


@pytest.mark.parametrize("path", MADE, ids=str)
def test_what_is_committed_is_what_is_made_now(path: Path) -> None:
    """`make manual` writes it anew."""
    assert (ROOT / path).read_text() == MADE[path]


def test_nothing_else_lies_where_it_is_written() -> None:
    """A page of a command that is gone, say."""
    folders = {ROOT / path.parent for path in MADE} - {ROOT / "etc"}
    assert {file.relative_to(ROOT) for folder in folders for file in folder.iterdir()} <= MADE.keys()


def test_every_command_has_a_page() -> None:
    """The daemon's is for administrators."""
    assert {name.rsplit(".", 1)[0] for name in PAGES} == {*COMMANDS, "workqueued.yaml"}


def plain(page: str) -> str:
    """The text of a page, without its fonts."""
    return re.sub(r"\\f[BIR]", "", page).replace("\\-", "-")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_told_on_its_page(command: str) -> None:
    """And those of its verbs."""
    page = plain(next(text for name, text in PAGES.items() if name.rsplit(".", 1)[0] == command))
    line = line_of(parser_of(command))
    lines = (line, *(one for _, _, one in line.verbs))
    flags = {flag for one in lines for option in one.options for flag in option.flags}
    assert [flag for flag in flags if not re.search(rf"(?<![\w-]){flag}\b", page)] == []


def test_every_environment_variable_is_told_on_a_page() -> None:
    """Those that the code reads by name."""
    read = re.compile(r'environ(?:\.get\(|\[)"(\w+)"|"(\w+)" in os\.environ')
    names = {
        name
        for file in (ROOT / "workqueued").rglob("*.py")
        if file.name != "endpoint.py"  # whose environ is that of a web request
        for pair in read.findall(file.read_text())
        for name in pair
    }
    assert [name for name in names - {""} if not any(name in plain(page) for page in PAGES.values())] == []


def test_the_queues_program_stands_in_single_quotes() -> None:
    """In all three shells."""
    assert "'" not in QUEUES
