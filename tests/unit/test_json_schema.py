"""etc/workqueued.schema.json: what an editor and a check before a deploy know of the configuration."""

import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from unit import test_config

from workqueued.cli import daemon
from workqueued.config import read_config
from workqueued.json_schema import json_schema
from workqueued.plain import as_plain

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "etc/workqueued.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
LEAST = {"queues": {"task_queue": {"handler": "a:b"}}}

#: What only `workqueued --check` can tell.
BEYOND = (
    "the same key again",
    "names that begin with",
    "expected a printable name",
    "the name is longer",
    "expected the name of an environment variable",
    "found '010'",
    "'a\\x00b'",
)


def accepted(value: Any) -> bool:
    """Whether the schema has nothing against it."""
    return bool(VALIDATOR.is_valid(value))


def test_it_is_what_the_code_makes_now(capsys: pytest.CaptureFixture[str]) -> None:
    """`make manual` writes it anew; `--print-schema` prints it."""
    assert daemon.main(["--print-schema"]) == 0
    assert (ROOT / "etc/workqueued.schema.json").read_text() == capsys.readouterr().out


def test_it_is_a_schema() -> None:
    """Of the draft that it names."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def nameless(shape: Any, path: str = "") -> Iterator[str]:
    """Keys whose readers do not tell what they read."""
    for name, one in shape.get("properties", {}).items():
        if not one.keys() - {"description", "default"}:
            yield f"{path}{name}"
        yield from nameless(one, f"{path}{name}.")
    if isinstance(shape.get("additionalProperties"), dict):
        yield from nameless(shape["additionalProperties"], f"{path}<name>.")


def test_every_key_tells_what_it_may_be() -> None:
    """A reader without `@shaped` would let everything pass."""
    assert list(nameless(json_schema())) == []


_FENCE = re.compile(r"^ *```yaml\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


def _examples() -> Iterator[tuple[str, str]]:
    """The YAML in our documents, with where it stands."""
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("dev/man/*.md")]:
        for number, text in enumerate(_FENCE.findall(document.read_text()), 1):
            if "scrape_configs" not in text:  # Prometheus's own
                yield f"{document.name} {number}", textwrap.dedent(text)
    for file in (ROOT / "etc/workqueued.yaml", ROOT / "dev/tour.yaml"):
        yield file.name, file.read_text()


EXAMPLES = dict(_examples())


@pytest.mark.parametrize("where", EXAMPLES)
def test_what_we_show_is_accepted(where: str) -> None:
    """A part of a file stands for the file with that part."""
    value = yaml.safe_load(EXAMPLES[where])
    if not value.keys() & SCHEMA["properties"].keys():
        value = {"queues": {"task_queue": {"handler": "a:b"} | value}}
        if "command" in value["queues"]["task_queue"]:
            del value["queues"]["task_queue"]["handler"]
    assert [error.message for error in VALIDATOR.iter_errors(LEAST | value)] == []


def test_what_print_config_prints_is_accepted() -> None:
    """So every default is."""
    assert accepted(as_plain(read_config(ROOT / "etc/workqueued.yaml")))


@pytest.mark.parametrize(
    "queue",
    [
        {"handler": "a:b", "time_limit": "none", "recycle": {"tasks": 5, "memory": "100M", "age": None}},
        {"handler": {"resize": "a:b", "default": "c:d"}, "declare": False, "limits": {"memory": 268435456}},
        {"command": ["./x", 7, 1.5], "limits": {"cpu": "5s"}, "environment": {"A": "b"}},
        {"handler": "${HANDLER}", "command": None, "paused": True},
    ],
)
def test_what_may_be_said_in_several_ways_is_accepted(queue: dict[str, Any]) -> None:
    """Words instead of durations, mappings, variables."""
    assert accepted({"queues": {"q": queue}, "broker": {"heartbeat": 0, "url": ["amqp://a", "${URL}"]}})


WRONG = test_config.test_a_mistake_is_told_with_line_key_found_and_expected.pytestmark[0].args[1]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("text", "message"), WRONG)
def test_what_is_a_mistake_to_us_is_one_to_the_schema(text: str, message: str) -> None:
    """As far as a schema can tell; what is beyond it is named above."""
    assert refused(text) or any(words in message for words in BEYOND)


def refused(text: str) -> bool:
    """Whether somebody who knows YAML and the schema takes it for wrong."""
    try:
        return not accepted(yaml.safe_load(text))
    except (yaml.YAMLError, KeyError):
        return True


def test_what_is_beyond_it_is_still_so() -> None:
    """The list above has nothing that is not needed."""
    passed = [message for text, message in WRONG if not refused(text)]
    assert [words for words in BEYOND if not any(words in message for message in passed)] == []


@pytest.mark.parametrize("written", ["5", 5, 5.5, "s", "5 s", "1h30m", "", None, True, ["5s"]])
def test_a_bad_duration_is_not_accepted(written: object) -> None:
    """But one out of its range is, as a pattern does not count."""
    assert not accepted(LEAST | {"drain_timeout": written})
