"""Completion in real shells: what Tab makes of a line."""

import os
import pty
import re
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPLETIONS = ROOT / "etc/completions"
COMMANDS = ("workqueued", "wq-send", "wq-status", "wq-dead", "wq-broker")
SHELLS = ("bash", "zsh", "fish")

YAML = """\
# queues:
broker: {url: amqp://host}
queues:
  mail:
    command: [x]
  "mass:mail": {handler: a:b}   # a colon cuts words in bash
  # out: {handler: a:b}
log:
  level: info
"""


@pytest.fixture(scope="module", autouse=True)
def shells() -> None:
    """dev/provision installs them."""
    missing = [shell for shell in SHELLS if not shutil.which(shell)]
    if missing and "CI" not in os.environ:
        pytest.skip(f"not installed: {', '.join(missing)}")
    assert missing == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a configuration, a file and a folder in it."""
    (tmp_path / "our.yaml").write_text(YAML)
    (tmp_path / "batch of jobs.txt").touch()
    (tmp_path / "bin").mkdir()
    return tmp_path


def completed(shell: str, line: str, folder: Path) -> set[str]:
    """What a shell offers for the last word of a line."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](line, folder)


def _run(shell: list[str], script: str, folder: Path) -> str:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "WQ_CONFIG": "our.yaml", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        [*shell, "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=True, timeout=20
    )
    assert done.stderr == ""
    return done.stdout


def _bash(line: str, folder: Path) -> set[str]:
    """As readline calls it."""
    command = line.split(" ", maxsplit=1)[0]
    script = f"""
        compopt() {{ :; }}  # outside of readline it says that nobody is completing
        source {COMPLETIONS}/bash/{command}
        COMP_WORDBREAKS=$' \\t\\n"\\'><=;|&(:' COMP_LINE='{line}' COMP_POINT={len(line)}  # as it is at a prompt
        _{command.replace("-", "_")}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    return set(_run(["bash", "--norc", "--noprofile"], script, folder).split("\n")) - {""}


def _fish(line: str, folder: Path) -> set[str]:
    script = f"source {COMPLETIONS}/fish/{line.split(' ', maxsplit=1)[0]}.fish; complete -C '{line}'"
    out = _run(["fish", "--no-config"], script, folder)
    return {row.split("\t")[0] for row in out.splitlines()}


#: Prints what is offered, and when it is ready for a line.
_ZSH = """
fpath=({folder} $fpath); autoload -Uz compinit; compinit -u -D
compadd() {{
    local -a found
    [[ ${{@[1,(i)(-|--)]}} == *-(O|A|D)* ]] || {{ builtin compadd -O found "$@"; print -rl -- '<'${{^found}}'>' }}
    builtin compadd "$@"
}}
zle-line-init() {{ print READY }}; zle -N zle-line-init
"""


def _zsh(line: str, folder: Path) -> set[str]:
    """In a terminal: zsh completes nowhere else."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execve(  # noqa: S606 - a shell is what it is
            shutil.which("zsh") or "zsh",
            ["zsh", "-f", "-i"],
            {"PATH": os.environ["PATH"], "HOME": str(folder), "WQ_CONFIG": "our.yaml", "TERM": "dumb"},
        )
    try:
        (folder / "zsh").mkdir(exist_ok=True)
        (folder / "zsh/init").write_text(_ZSH.format(folder=COMPLETIONS / "zsh"))
        os.write(terminal, b"source zsh/init\n")
        _read_until(terminal, "READY")
        os.write(terminal, f"{line}\t\a".encode())
        os.write(terminal, b"\x15print DO''NE\n")
        shown = _read_until(terminal, "DONE")
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)
    return set(re.findall(r"<([^<>\r\n]+)>", shown))


def _read_until(terminal: int, mark: str, within: float = 15) -> str:
    seen, deadline = "", time.monotonic() + within
    while mark not in seen:
        ready, _, _ = select.select([terminal], [], [], deadline - time.monotonic())
        assert ready, f"zsh does not say {mark}: {seen!r}"
        seen += os.read(terminal, 65536).decode()
    return seen


@pytest.mark.parametrize("shell", SHELLS)
def test_the_files_are_clean(shell: str) -> None:
    """The shell itself reads each of them."""
    files = sorted((COMPLETIONS / shell).iterdir())
    names = {"bash": "{}", "zsh": "_{}", "fish": "{}.fish"}[shell]
    assert {file.name for file in files} == {names.format(command) for command in COMMANDS}
    for file in files:
        assert subprocess.run([shell, "-n", file], check=True, capture_output=True).stderr == b""


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("wq-send --qu", {"--queue", "--quiet"}),
        ("wq-send --queue ma", {"mail", "mass:mail"}),
        ("wq-dead re", {"replay"}),
        ("wq-dead stats --by h", {"handler", "host"}),
        ("wq-dead --queue mail replay --dry", {"--dry-run"}),
        ("wq-status --check-backlog --queue mai", {"mail"}),
        ("workqueued --print-", {"--print-config", "--print-schema"}),
        ("wq-broker --po", {"--port"}),
    ],
)
def test_tab_offers_what_fits(shell: str, line: str, offered: set[str], folder: Path) -> None:
    """Options, verbs, choices, queues."""
    assert completed(shell, line, folder) == offered


@pytest.mark.parametrize("shell", SHELLS)
def test_files_and_folders_are_offered_where_they_are_meant(shell: str, folder: Path) -> None:
    """One with blanks in its name, too; a folder where only that can be."""
    assert any("batch" in name for name in completed(shell, "wq-send --lines --file ba", folder))
    found = {name.rstrip("/") for name in completed(shell, "wq-status --run-directory b", folder)}
    assert found == {"bin"}


@pytest.mark.parametrize("shell", SHELLS)
def test_queues_are_those_of_the_configuration_that_is_named(shell: str, folder: Path) -> None:
    """One that cannot be read offers nothing, and says nothing."""
    (folder / "other.yaml").write_text("queues:\n    other:\n        handler: a:b\n")
    assert completed(shell, "wq-send --config other.yaml --queue ", folder) == {"other"}
    assert completed(shell, "wq-send --config absent.yaml --queue ", folder) == set()


def test_bash_completes_behind_an_equals_sign_and_a_colon(folder: Path) -> None:
    """Where readline has cut the word; only the rest is added."""
    assert completed("bash", "wq-send --queue=ma", folder) == {"mail", "mass:mail"}
    assert completed("bash", "wq-send --queue mass:m", folder) == {"mail"}
