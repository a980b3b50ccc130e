"""A RabbitMQ node that speaks TLS, and the certificates that it and its clients have."""

import datetime as dt
from pathlib import Path

import trustme

from workqueued.node import Node, _free_port

#: What a node's own certificate is for.
NAMES = ("localhost", "127.0.0.1")


class Authority:
    """A certificate authority of our own, and the files of what it issued."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._ca = trustme.CA()
        self._directory = directory
        self.file = directory / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.file))

    def issue(self, name: str, *identities: str, expired: bool = False) -> tuple[Path, Path]:
        """Make `name.pem` and `name.key`; returns their paths."""
        now = dt.datetime.now(dt.UTC)
        issued = self._ca.issue_cert(
            *(identities or NAMES),
            common_name=name,
            not_before=now - dt.timedelta(days=2),
            not_after=now + dt.timedelta(days=-1 if expired else 1),
        )
        cert, key = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        cert.write_bytes(issued.cert_chain_pems[0].bytes())
        key.write_bytes(issued.private_key_pem.bytes())
        return cert, key


class TlsNode(Node):
    """A node with a TLS port beside the plain one, where a certificate may be a login.

    `present` gives it another certificate while it runs.
    """

    def __init__(self, directory: Path, authority: Authority, *, asks: bool) -> None:
        """`asks`: clients without a certificate by the authority are turned away."""
        self.tls_port = _free_port()
        self._own = directory / "own.pem", directory / "own.key"
        settings = {
            "listeners.ssl.1": f"127.0.0.1:{self.tls_port}",
            "ssl_options.cacertfile": str(authority.file),
            "ssl_options.certfile": str(self._own[0]),
            "ssl_options.keyfile": str(self._own[1]),
            "ssl_options.verify": "verify_peer",
            "ssl_options.fail_if_no_peer_cert": "true" if asks else "false",
            "auth_mechanisms.1": "PLAIN",
            "auth_mechanisms.2": "EXTERNAL",
            "ssl_cert_login_from": "common_name",
        }
        super().__init__(directory, name="tls", settings=settings)
        directory.mkdir(parents=True, exist_ok=True)
        self._write(authority.issue("broker"))

    def _write_files(self) -> None:
        super()._write_files()
        (self.directory / "enabled_plugins").write_text("[rabbitmq_auth_mechanism_ssl].\n")

    def _write(self, issued: tuple[Path, Path]) -> None:
        for own, given in zip(self._own, issued, strict=True):
            own.write_bytes(given.read_bytes())

    def present(self, issued: tuple[Path, Path]) -> None:
        """Show this certificate from the next handshake on."""
        self._write(issued)
        self.ctl("eval", "ssl:clear_pem_cache().")

    def tls_url(self, host: str = "localhost", vhost: str = "%2F") -> str:
        """The address of the TLS port, as guest."""
        return f"amqps://guest:guest@{host}:{self.tls_port}/{vhost}"
