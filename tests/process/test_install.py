"""`make install` into a folder, as a packager does; with systemd and for the whole machine only a person tries it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def make(target: str, destdir: Path) -> str:
    """Run it; returns what it says."""
    environment = {**os.environ, "DESTDIR": str(destdir), "PREFIX": "/opt/wq", "PYTHON": sys.executable}
    done = subprocess.run(
        [str(ROOT / "dev/install"), target], env=environment, capture_output=True, text=True, check=False, timeout=170
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def placed(name: str) -> str:
    """A configuration file of ours as it is installed."""
    text = (ROOT / "etc" / name).read_text()
    return text.replace("/usr/local/share/", "/opt/wq/share/").replace("/usr/local/lib/", "/opt/wq/lib/")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that it was installed in, over an edited workqueued.yaml and a supervisord.conf as we ship it."""
    folder = tmp_path_factory.mktemp("destdir")
    config = folder / "etc/workqueued"
    config.mkdir(parents=True)
    (config / "workqueued.yaml").write_text("# mine\n")
    (config / "supervisord.conf").write_text(placed("supervisord.conf"))
    assert "/etc/workqueued/workqueued.yaml is as you have it" in make("install", folder)
    return folder


def test_the_commands_lie_on_the_path_and_know_where_they_will_be(installed: Path) -> None:
    """A virtual environment cannot be moved: its scripts name the final place, not the packager's folder."""
    for command in ("workqueued", "wq-send", "wq-status", "wq-dead", "wq-broker"):
        link = installed / "opt/wq/bin" / command
        assert os.readlink(link) == f"/opt/wq/lib/workqueued/bin/{command}"  # noqa: PTH115 - as text
        script = installed / "opt/wq/lib/workqueued/bin" / command
        assert script.read_text().startswith("#!/opt/wq/lib/workqueued/bin/python")


def test_unit_and_supervisord_name_the_installed_program(installed: Path) -> None:
    """Whatever PREFIX is."""
    unit = (installed / "etc/systemd/system/workqueued.service").read_text()
    conf = (installed / "etc/workqueued/supervisord.conf").read_text()
    assert "ExecStart=/opt/wq/lib/workqueued/bin/supervisord -n -c /etc/workqueued/supervisord.conf" in unit
    assert "command=/opt/wq/lib/workqueued/bin/workqueued --config" in conf
    assert "/usr/local" not in unit + conf


def test_an_edited_configuration_is_kept(installed: Path) -> None:
    """The new version's lies beside it, not for everybody, as it may hold a password; one that is as ours gets none."""
    folder = installed / "etc/workqueued"
    assert folder.stat().st_mode & 0o777 == 0o750
    assert {file.name for file in folder.iterdir()} == {"workqueued.yaml", "workqueued.yaml.new", "supervisord.conf"}
    assert (folder / "workqueued.yaml").read_text() == "# mine\n"
    assert (folder / "workqueued.yaml.new").read_text() == placed("workqueued.yaml")
    assert (folder / "workqueued.yaml.new").stat().st_mode & 0o777 == 0o640


def test_manual_and_completions_are_there(installed: Path) -> None:
    """Where man and the shells look."""
    share = installed / "opt/wq/share"
    names = ("man/man8/workqueued.8", "man/man5/workqueued.yaml.5", "bash-completion/completions/wq-send")
    for name in (*names, "workqueued/loosen.conf"):
        assert (share / name).exists()


def test_uninstall_leaves_the_configuration_alone(installed: Path) -> None:
    """And nothing else; it comes last, as the others look at what is installed."""
    make("uninstall", installed)
    left = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file() or path.is_symlink()}
    assert left == {f"etc/workqueued/{name}" for name in ("workqueued.yaml", "workqueued.yaml.new", "supervisord.conf")}


def test_without_root_it_says_what_to_do() -> None:
    """Before anything is touched."""
    script = (ROOT / "dev/install").read_text().replace('cd "$(dirname "$0")/.."\n', "")
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*nobody, "bash", "-s", "install"], cwd="/", input=script, capture_output=True, text=True, check=False
    )
    assert done.returncode == os.EX_NOPERM
    assert "sudo make install" in done.stderr
