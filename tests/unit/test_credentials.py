"""credentials: where the password comes from, and who else can read it."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from workqueued.config import Config, read_config
from workqueued.credentials import exposed
from workqueued.errors import ConfigError

QUEUE = "queues: {q: {handler: 'a:b'}}\n"
SECRET = "s3cret@home"  # written s3cret%40home in a URL

Load = Callable[..., Config]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Reads a broker section from a file with this mode."""

    def read(broker: str, mode: int = 0o640) -> Config:
        file = tmp_path / "workqueued.yaml"
        file.write_text(QUEUE + f"broker: {{{broker}}}\n")
        file.chmod(mode)
        return read_config(file)

    return read


@pytest.fixture
def credential(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What systemd's LoadCredential= hands to a service."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    (folder / "broker-password").write_text(f"{SECRET}\n")
    return folder / "broker-password"


def passwords(config: Config) -> list[str]:
    return [url.secret for url in config.broker.url]


def test_systemds_credential_is_used_where_there_is_no_password(load: Load, credential: Path) -> None:
    """Its first line."""
    assert passwords(load("url: ['amqp://u@h', 'amqp://h']")) == [SECRET, SECRET]
    assert passwords(load("")) == [SECRET]


def test_what_the_file_says_comes_before_systemds_credential(load: Load, credential: Path, tmp_path: Path) -> None:
    """A password in the URL, an empty one as well, and a password file."""
    assert passwords(load("url: ['amqp://u:mine@h', 'amqp://u:@h', 'amqp://u@h']")) == ["mine", "", SECRET]
    (tmp_path / "password").write_text("of the file")
    assert passwords(load("url: ['amqp://u:mine@h', 'amqp://u@h'], password_file: password")) == ["of the file"] * 2


def test_another_services_credentials_are_not_looked_at(load: Load, credential: Path) -> None:
    """The folder may hold other things."""
    credential.rename(credential.with_name("other"))
    assert passwords(load("url: 'amqp://u@h'")) == ["guest"]


def test_a_blank_credential_is_none(load: Load, credential: Path) -> None:
    """The unit sets one where there is no file to load."""
    credential.write_bytes(b"\n")
    assert passwords(load("url: 'amqp://u@h'")) == ["guest"]


@pytest.mark.parametrize(("content", "told"), [(b"\nsecond\n", "the first line of"), (b"\xff", "not UTF-8 text")])
def test_a_bad_credential_is_told(load: Load, credential: Path, content: bytes, told: str) -> None:
    """Rather than to try the default one with the broker."""
    credential.write_bytes(content)
    with pytest.raises(ConfigError, match=f"workqueued.yaml: systemd's credential broker-password: .*{told}"):
        load("url: 'amqp://u@h'")


# --- who else can read it -------------------------------------------------------------------------------------------


def told(config: Config, tmp_path: Path) -> list[tuple[str, str]]:
    return [(error.replace(f"{tmp_path}/", ""), hint.replace(f"{tmp_path}/", ""))
            for error, hint in exposed(config.file, config.broker)]


def test_a_password_that_all_can_read_is_told_with_the_command_that_mends_it(load: Load, tmp_path: Path) -> None:
    """As it is written in the URL."""
    assert told(load("url: 'amqp://u:s3cret%40home@h'", 0o644), tmp_path) == [
        (
            "workqueued.yaml has a password in broker.url or management_url, and everybody on this host can read it",
            "chgrp workqueued workqueued.yaml && chmod 640 workqueued.yaml",
        )
    ]


@pytest.mark.parametrize("mode", [0o640, 0o600, 0o660, 0o641])
def test_what_the_group_alone_can_read_is_no_doubt(load: Load, tmp_path: Path, mode: int) -> None:
    """It is for the group."""
    assert told(load("url: 'amqp://u:s3cret@h'", mode), tmp_path) == []


def test_what_is_no_secret_is_no_doubt(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RabbitMQ's default, none at all, and one from the environment that the file has not."""
    monkeypatch.setenv("WQ_TEST_PASSWORD", SECRET)
    for url in ("amqp://guest:guest@h", "amqp://u@h", "amqp://u:@h", "amqp://u:${WQ_TEST_PASSWORD}@h"):
        assert told(load(f"url: '{url}'", 0o644), tmp_path) == []


def test_a_password_file_that_all_can_read_is_told(load: Load, tmp_path: Path) -> None:
    """Whatever the mode of the configuration, which has no secret then. A space in the path is quoted."""
    (tmp_path / "pass word").write_text(SECRET)
    (tmp_path / "pass word").chmod(0o644)
    assert told(load("url: 'amqp://u@h', password_file: 'pass word'", 0o644), tmp_path) == [
        ("pass word has the broker's password, and everybody on this host can read it",
         f"chgrp workqueued '{tmp_path}/pass word' && chmod 640 '{tmp_path}/pass word'".replace(f"{tmp_path}/", ""))
    ]
    os.chmod(tmp_path / "pass word", 0o640)  # noqa: PTH101 - the same
    assert told(load("url: 'amqp://u@h', password_file: 'pass word'", 0o644), tmp_path) == []
