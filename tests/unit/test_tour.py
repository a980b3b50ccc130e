"""docs/tour.md tells what `make tour` does."""

import os
import re
from pathlib import Path

import pytest

from dev.tour import ACTS, CHECK, HANDLERS, SCRIPT, YAML
from workqueued.config import read_config

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/tour.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [YAML, HANDLERS, SCRIPT])
def test_the_files_of_the_tour_are_shown_as_they_are(name: str) -> None:
    """Word by word."""
    assert f"\n{(ROOT / 'dev' / name).read_text(encoding='utf-8').rstrip()}\n```" in TEXT


def test_the_acts_are_those_of_the_tour_in_its_order() -> None:
    """With the same titles and words."""
    titles = re.findall(r"^## (\d+)\. (.*)$", TEXT, re.MULTILINE)
    assert titles == [(str(number), act.title) for number, act in enumerate(ACTS, start=1)]
    assert all(act.story in TEXT for act in ACTS)


def test_the_commands_are_those_that_the_tour_types() -> None:
    """One after the other."""
    shown = re.findall(r"^\$ (.*)$", TEXT, re.MULTILINE)
    assert shown == [CHECK, *(step.command for act in ACTS for step in act.steps)]


def test_every_event_that_is_shown_exists() -> None:
    """It is in docs/events.md, or a handler of the tour logs it."""
    shown = set(re.findall(r"^  \d\d:\d\d:\d\d\.\d{3}  ([\w.]+) ", TEXT, re.MULTILINE))
    documented = set(re.findall(r"^\| `([\w.]+)` \|", (ROOT / "docs/events.md").read_text(), re.MULTILINE))
    logged = set(re.findall(r'task\.log\.info\("([\w.]+)"', (ROOT / "dev" / HANDLERS).read_text()))
    assert logged <= shown
    assert shown - logged <= documented


def test_the_service_of_the_tour_is_a_valid_one() -> None:
    """Every handler is one of the module's functions, and the program can be executed."""
    queues = read_config(ROOT / "dev" / YAML).queues
    handlers = queues["shop"].handler
    assert isinstance(handlers, dict)
    functions = re.findall(r"^def (\w+)\(", (ROOT / "dev" / HANDLERS).read_text(), re.MULTILINE)
    assert list(handlers.values()) == [f"tour_handlers:{name}" for name in functions]
    assert queues["labels"].command == (str(ROOT / "dev" / SCRIPT),)
    assert os.access(ROOT / "dev" / SCRIPT, os.X_OK)


def test_the_summary_is_shown() -> None:
    """Nothing is lost."""
    assert re.search(r"^tour: \d+ messages sent, .* 0 lost$", TEXT, re.MULTILINE)
