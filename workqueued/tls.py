"""TLS: the context of a connection from the certificates in the configuration, and what is wrong with those files.

Runs in: every process that connects to an amqps broker, and whoever reads the configuration of one.

A context is made for each connection, so that a renewed certificate is used from the next one on. `ssl` is imported
when there is need: most brokers have none.
"""

from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from workqueued.broker_settings import Tls
from workqueued.errors import ConfigError

if TYPE_CHECKING:
    from ssl import SSLContext

_CERTIFICATE, _PRIVATE_KEY = b"-----BEGIN CERTIFICATE-----", b"PRIVATE KEY-----"
_ANY = Tls()


def context(settings: Tls | None) -> "SSLContext":
    """What a connection needs: whom to trust, and our own certificate.

    Raises:
        ConfigError: a file is missing, unreadable, or not what it should be; the text begins with its key.
    """
    import ssl  # noqa: PLC0415 - see the module's text

    tls = settings or _ANY
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies chain and name
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    if not tls.verify:
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    if tls.ca is not None:
        _require(tls.ca, "ca", _CERTIFICATE, "a certificate in PEM")
        try:
            made.load_verify_locations(tls.ca)
        except ssl.SSLError as error:
            raise ConfigError(f"broker.tls.ca: cannot read the certificates in {tls.ca}: {error.reason}") from error
    elif tls.verify:
        made.load_default_certs()
    if tls.cert is not None:
        _load_own(made, tls.cert, tls.key)
    return made


def _load_own(made: "SSLContext", cert: Path, private: Path | None) -> None:
    import ssl  # noqa: PLC0415 - see the module's text

    _require(cert, "cert", _CERTIFICATE, "a certificate in PEM")
    name, file = ("key", private) if private is not None else ("cert", cert)
    hint = "" if private is not None else "; or name the file that has it as broker.tls.key"
    _require(file, name, _PRIVATE_KEY, f"a private key in PEM{hint}")

    def refuse() -> NoReturn:
        # Without this OpenSSL would ask on the terminal.
        raise ConfigError(
            f"broker.tls.{name}: the private key in {file} has a passphrase, and nobody is there to type it; expected "
            f"one without, which only the service's group can read (openssl pkey -in {file} -out NEW)"
        )

    try:
        made.load_cert_chain(cert, private, refuse)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(
                f"broker.tls.{name}: the private key in {file} is not that of the certificate in {cert}, expected the "
                "one that it was made with"
            ) from error
        raise ConfigError(f"broker.tls.cert: the certificate in {cert}, or the key in {file}, is damaged") from error


def _require(file: Path, name: str, begin: bytes, expected: str) -> None:
    """Raise ConfigError where a file has not what it is named for; OpenSSL's own words tell neither which nor what."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"broker.tls.{name}: cannot read {file}: {error.strerror}") from error
    if begin not in content:
        raise ConfigError(f"broker.tls.{name}: found nothing of the kind in {file}, expected {expected}")
