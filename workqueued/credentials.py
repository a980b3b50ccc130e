"""Credentials: where the broker's password comes from, and who else can read it.

Runs in: every process that reads the configuration.
"""

import dataclasses
import os
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from workqueued.broker_settings import Broker
from workqueued.errors import ConfigError
from workqueued.paths import GROUP

#: The name under which systemd hands a password to the service: `LoadCredential=broker-password:…` (systemd.exec(5)).
CREDENTIAL = "broker-password"


def with_password(file: Path, broker: Broker) -> Broker:
    """The broker with the password of its password file, or else systemd's for addresses that have none in the URL.

    Raises:
        ConfigError: the file that is to have it cannot be read.
    """
    if broker.password_file is not None:
        password = _read(f"{file}: broker.password_file", broker.password_file)
        urls = [dataclasses.replace(url, password=password) for url in broker.url]
    elif (credential := _credential()) is not None:
        password = _read(f"{file}: systemd's credential {CREDENTIAL}", credential)
        urls = [url if url.password is not None else dataclasses.replace(url, password=password) for url in broker.url]
    else:
        return broker
    return dataclasses.replace(broker, url=tuple(urls))


def _credential() -> Path | None:
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        return None
    file = Path(directory, CREDENTIAL)
    try:
        # The unit sets a blank one where there is no file to load.
        return file if file.read_bytes() != b"\n" else None
    except FileNotFoundError:
        return None
    except OSError:
        return file  # told when it is read


def _read(what: str, file: Path) -> str:
    try:
        password = file.read_text(encoding="utf-8").partition("\n")[0]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ConfigError(f"{what}: cannot read {file}: {reason}") from error
    if not password:
        raise ConfigError(f"{what}: the first line of {file} is empty")
    return password


def exposed(file: Path, broker: Broker) -> Iterator[tuple[str, str]]:
    """Files with a secret in them that everybody on this host can read: what is wrong, and the command to mend it."""
    if broker.password_file is not None and _open_to_all(broker.password_file):
        yield _told(broker.password_file, "the broker's password")
    elif _open_to_all(file) and _has_password(file, broker):
        yield _told(file, "a password in broker.url or management_url")
    private = broker.tls and (broker.tls.key or broker.tls.cert)
    if private and _open_to_all(private):
        yield _told(private, "the private key of broker.tls")


def _told(file: Path, secret: str) -> tuple[str, str]:
    path = shlex.quote(str(file))
    return f"{file} has {secret}, and everybody on this host can read it", f"chgrp {GROUP} {path} && chmod 640 {path}"


def _open_to_all(file: Path) -> bool:
    """Whether others may read a file; that they cannot get to its folder may change, and is not looked at."""
    try:
        return bool(file.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False


def _has_password(file: Path, broker: Broker) -> bool:
    """Whether a password stands in the file itself: not RabbitMQ's default, nor one from the environment."""
    try:
        content = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    passwords = [url.password for url in broker.url]
    if broker.management_url is not None:
        passwords.append(broker.management_url.password)
    secrets = [password for password in passwords if password not in (None, "", "guest")]
    return any(secret is not None and (secret in content or quote(secret, safe="") in content) for secret in secrets)
