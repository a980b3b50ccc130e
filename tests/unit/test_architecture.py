"""What keeps the source readable: small modules, short functions, documents whose links lead somewhere."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

import workqueued

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "workqueued").rglob("*.py"))
#: What is not ours, or was made.
_NOT_OURS = ("egg-info", "__pycache__")


def _ours(pattern: str) -> list[Path]:
    return [
        path
        for path in sorted(ROOT.rglob(pattern))
        if not any(part.startswith(".") or part.endswith(_NOT_OURS) for part in path.relative_to(ROOT).parts[:-1])
        and "site-packages" not in path.parts
    ]


DOCUMENTS = _ours("*.md")


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("module", MODULES, ids=_name)
def test_a_module_has_at_most_400_lines(module: Path) -> None:
    """One that grows beyond has two subjects."""
    assert len(module.read_text().splitlines()) <= 400


@pytest.mark.parametrize("module", MODULES, ids=_name)
def test_a_function_has_at_most_60_lines(module: Path) -> None:
    """It fits on a screen."""
    long = [
        f"{node.name} (line {node.lineno}): {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= 60
    ]
    assert long == []


@pytest.mark.parametrize("module", MODULES, ids=_name)
def test_a_module_says_what_it_is(module: Path) -> None:
    """In its first line."""
    assert ast.get_docstring(ast.parse(module.read_text()))


@pytest.mark.parametrize("test", sorted((ROOT / "tests").rglob("test_*.py")), ids=_name)
def test_a_test_says_what_it_promises(test: Path) -> None:
    """Beside its name, since a name has no room for the reason."""
    silent = [
        node.name
        for node in ast.walk(ast.parse(test.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and not ast.get_docstring(node)
    ]
    assert silent == []


def test_the_version_is_in_one_place() -> None:
    """Everything else reads it from there; a change log may name it, and a report of what was measured."""
    version = re.compile(rf"\b{re.escape(workqueued.__version__)}\b")
    places = []
    for path in [*MODULES, ROOT / "setup.cfg", ROOT / "pyproject.toml", ROOT / "Makefile", *DOCUMENTS]:
        if path.exists() and path.name not in ("CHANGELOG.md", "benchmarks.md"):
            places += [_name(path)] * len(version.findall(path.read_text()))
    assert places == ["workqueued/__init__.py"]


def _anchor(heading: str) -> str:
    """The name by which a heading is linked to, as on GitHub."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def _without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_every_link_of_a_document_leads_somewhere(document: Path) -> None:
    """To a file of ours, and to a heading in it."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", _without_code(document.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (document.parent / path).resolve() if path else document
        if not file.exists():
            broken.append(target)
        elif anchor and file.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", _without_code(file.read_text()), re.MULTILINE)
            if anchor not in map(_anchor, headings):
                broken.append(target)
    assert broken == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_a_document_names_only_files_that_exist(document: Path) -> None:
    """`docs/x.md`, `etc/x.yaml`: what is set as code and looks like a path in the tree."""
    ours = r"`((?:docs|etc(?!/workqueued/)|systemd|tests|bench|workqueued)/[\w./-]+\.\w+)`"
    named = re.findall(ours, document.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_modules_name_only_documents_that_exist() -> None:
    """`docs/events.md` in a docstring."""
    broken = [
        f"{_name(module)}: {name}"
        for module in MODULES
        for name in re.findall(r"\bdocs/[\w-]+\.md\b", module.read_text())
        if not (ROOT / name).exists()
    ]
    assert broken == []


def test_nothing_is_left_to_do() -> None:
    """What is known and not done is in the documents, not in the source."""
    marks = re.compile("TO" + "DO|FIX" + "ME|XX" + "X")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    assert [name for name in tracked.splitlines() if name.endswith(".py") and marks.search(_read(name))] == []


def _read(name: str) -> str:
    path = ROOT / name
    return path.read_text() if path.exists() else ""
