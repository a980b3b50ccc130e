"""supervisord with the shipped configuration, its paths moved into a folder."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

BIN = Path(sys.executable).parent
SHIPPED = Path(__file__).parents[1] / "etc/supervisord.conf"


class Supervisor:
    """A supervisord that runs.

    Args:
        directory: where its own files go.
        file, log: the daemon's configuration and log.
        program: to be started instead of the daemon.
        launcher: words before the command.
        environment: what the daemon has in its environment beside ours.
    """

    def __init__(
        self,
        directory: Path,
        file: Path,
        log: Path,
        program: str = str(BIN / "workqueued"),
        launcher: tuple[str, ...] = (),
        **environment: str,
    ) -> None:
        self.directory = directory
        self.conf = directory / "supervisord.conf"
        text = SHIPPED.read_text()
        paths = {
            "/usr/local/lib/workqueued/bin/workqueued": program,
            "/usr/local/lib/workqueued/bin": BIN,
            "/etc/workqueued/workqueued.yaml": file,
            "/var/log/workqueued/workqueued.log": log,
            "/var/log/workqueued": directory,
            "/run/workqueued": directory,
        }
        for shipped in paths:
            assert shipped in text, shipped
        # In one go, the longer ones first: a folder of the tests may contain what is shipped.
        self.conf.write_text(re.sub("|".join(map(re.escape, paths)), lambda found: str(paths[found[0]]), text))
        with (directory / "supervisord.out").open("ab") as out:
            self.process = subprocess.Popen(
                [*launcher, str(BIN / "supervisord"), "-n", "-c", str(self.conf)],
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def ctl(self, *arguments: str) -> str:
        """Run supervisorctl; returns what it prints."""
        command = [str(BIN / "supervisorctl"), "-c", str(self.conf), *arguments]
        return subprocess.run(command, capture_output=True, check=False, text=True, timeout=60).stdout

    def failure(self) -> str:
        """Why supervisord ended by itself."""
        return (self.directory / "fatal.log").read_text()

    def kill(self) -> None:
        """Kill -9 to supervisord alone."""
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        """End supervisord, and with it the daemon."""
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(90)
