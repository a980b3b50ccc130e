"""`make manual`: write what is made from the code: manual pages, shell completions, the JSON Schema.

Runs in: `make manual`; a test compares what is committed with what is made now.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from dev import manpages
from dev.completions import line_of
from dev.completions_bash import bash
from dev.completions_fish import fish
from dev.completions_zsh import zsh
from workqueued.json_schema import json_schema

ROOT = Path(__file__).resolve().parent.parent


def manual() -> Iterator[tuple[Path, str]]:
    """All that is made, as (path from the root, text)."""
    for name, text in manpages.pages():
        yield Path("docs/man", name), text
    for command in manpages.COMMANDS:
        line = line_of(manpages.parser_of(command))
        yield Path("etc/completions/bash", command), bash(command, line)
        yield Path("etc/completions/zsh", f"_{command}"), zsh(command, line)
        yield Path("etc/completions/fish", f"{command}.fish"), fish(command, line)
    yield Path("etc/workqueued.schema.json"), json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def main() -> None:
    """Write it."""
    for path, text in manual():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
