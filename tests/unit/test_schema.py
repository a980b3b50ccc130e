"""The reader of sections, apart from the sections we have."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from workqueued.durations import parse_duration
from workqueued.errors import ConfigError
from workqueued.readers import duration, integer, one_or_more, text
from workqueued.schema import key, load, redact


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("0s", 0),
        ("500ms", 0.5),
        ("1ms", 0.001),
        ("10s", 10),
        ("1.5s", 1.5),
        ("5m", 300),
        ("2h", 7200),
        ("1d", 86400),
        ("0.25h", 900),
    ],
)
def test_a_duration_is_a_number_and_a_unit(written: str, seconds: float) -> None:
    """The value is in seconds."""
    assert parse_duration(written) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "written", ["", "5", "s", "5 s", " 5s", "5s\n", "-5s", "+5s", ".5s", "5.s", "1h30m", "5S", "5us", "infs"]
)
def test_a_duration_without_a_unit_is_none(written: str) -> None:
    """And the error shows what it was, and what it could be."""
    with pytest.raises(ValueError) as caught:
        parse_duration(written)
    assert str(caught.value) == f"{written!r} is no duration such as 500ms, 10s, 5m or 2h"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("amqp://host/vhost", "amqp://host/vhost"),
        ("amqp://host:5672/%2F", "amqp://host:5672/%2F"),
        ("amqp://host:5672", "amqp://host:5672"),
        ("amqp://[::1]:5672/v", "amqp://[::1]:5672/v"),
        ("amqp://user@host", "amqp://***@host"),
        ("amqp://user:secret@host", "amqp://***@host"),
        ("amqp://user:se/cret@host", "amqp://***@host"),
        ("amqp://user:se@cret@host", "amqp://***@host"),
        ("amqp://user:se\ncret@host", "amqp://***@host"),
        ("user:secret@host", "***@host"),
        ("amqp://user:secret", "amqp://user:***"),
        ("amqp://user:secret/", "amqp://user:***"),
        ("amqp://user:12secret", "amqp://user:***"),
        ("plain words", "plain words"),
    ],
)
def test_redact_takes_away_all_that_may_be_a_password(url: str, shown: str) -> None:
    """Also of a URL that is wrong, since those are the ones that are shown."""
    assert redact(url) == shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A section for the tests."""

    count: int = key(integer(-5, 5), "a number")
    names: tuple[str, ...] = key(one_or_more(text(), "names"), "names", default=())
    pause: float = key(duration("1s", "2s"), "a duration", default=1.0)
    given: str = "not a key"


def test_a_section_is_read_with_its_defaults(tmp_path: Path) -> None:
    """A field without a reader is no key."""
    file = tmp_path / "section"
    file.write_text("count: -5\nnames: one\n")
    assert load(file, Section) == Section(count=-5, names=("one",), pause=1.0, given="not a key")
    file.write_text("count: +5\nnames: [one, two]\npause: 2s\n")
    assert load(file, Section) == Section(count=5, names=("one", "two"), pause=2.0)


def test_a_section_lists_what_is_missing_and_what_is_no_key(tmp_path: Path) -> None:
    """A missing key is reported on the line where its section begins."""
    file = tmp_path / "section"
    file.write_text("# a comment\ngiven: x\nnames: [one, 2]\n")
    with pytest.raises(ConfigError) as caught:
        load(file, Section)
    assert str(caught.value) == (
        f"{file}:2: given: unknown key; known here: count, names, pause\n"
        f"{file}:2: count: missing; a number\n"
        f"{file}:3: names[1]: found '2' (a number), expected text"
    )
