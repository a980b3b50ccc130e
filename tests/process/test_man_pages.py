"""The manual pages are clean to the programs that show them."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

PAGES = sorted((Path(__file__).parents[2] / "docs/man").iterdir())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_is_clean(page: Path) -> None:
    """But for its date, which would be that of the last `make manual` and not of the last change."""
    if not shutil.which("mandoc") and "CI" not in os.environ:
        pytest.skip("mandoc is not installed")
    said = subprocess.run(["mandoc", "-T", "lint", page], check=False, capture_output=True, text=True).stdout
    assert [line for line in said.splitlines() if "missing date" not in line] == []
