"""docs/tour.md tells what `make tour` does."""

import re
from pathlib import Path

import pytest

from dev.tour import ACTS, HANDLERS, SCRIPT, YAML

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
    assert shown == [step.command for act in ACTS for step in act.steps]


def test_the_summary_is_shown() -> None:
    """Nothing is lost."""
    assert re.search(r"^tour: \d+ messages sent, .* 0 lost$", TEXT, re.MULTILINE)
