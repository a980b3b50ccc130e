"""BrokerUrl: where a broker is, and who we are there; ManagementUrl: where its management API is; Address: of ours."""

import ipaddress
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit

#: The schemes and their ports (IANA).
_PORTS = {"amqp": 5672, "amqps": 5671}


@dataclass(frozen=True, slots=True)
class BrokerUrl:
    """One broker address, `amqp://user:password@host:port/vhost`; the password never shows in its repr.

    Attributes:
        password: None when none was given; `secret` is what to log in with.
        tls: the scheme is amqps.
    """

    host: str
    port: int
    user: str
    password: str | None = field(repr=False)
    vhost: str = "/"
    tls: bool = False

    @classmethod
    def parse(cls, text: str) -> "BrokerUrl":
        """Read a URL.

        Raises:
            ValueError: it is no AMQP URL.
        """
        try:
            url = urlsplit(text)
            port = url.port
            text.encode()  # an environment variable may hold bytes that are no UTF-8
        except ValueError:
            # Not "from error", and without its text: it quotes what may be the password.
            hint = "host and port must be a name and a number; / @ : in a password are written %2F %40 %3A"
            raise ValueError(hint) from None
        if url.scheme not in _PORTS:
            raise ValueError("the scheme must be amqp, or amqps for TLS")
        if not url.hostname:
            raise ValueError("the host is missing")
        if url.query or url.fragment:
            raise ValueError("nothing may follow the vhost; options such as heartbeat are keys of broker:")
        vhost = url.path.removeprefix("/")
        if "/" in vhost:
            raise ValueError("a / in the vhost is written %2F")
        return cls(
            host=url.hostname,
            port=port or _PORTS[url.scheme],
            user=unquote(url.username) if url.username is not None else "guest",
            password=unquote(url.password) if url.password is not None else None,
            vhost=unquote(vhost) or "/",
            tls=url.scheme == "amqps",
        )

    @property
    def secret(self) -> str:
        """The password to log in with; RabbitMQ's own default where none was given."""
        return "guest" if self.password is None else self.password

    def __str__(self) -> str:
        """The URL for eyes and logs: without the password."""
        user, vhost = quote(self.user, safe=""), quote(self.vhost, safe="")
        scheme = "amqps" if self.tls else "amqp"
        return f"{scheme}://{user}:***@{_bracketed(self.host)}:{self.port}/{vhost}"


@dataclass(frozen=True, slots=True)
class ManagementUrl:
    """Where the management API is, `http(s)://[user:password@]host[:port][/prefix]`; no password shows in its repr.

    Attributes:
        user, password: None: those of the broker.
        prefix: what `management.path_prefix` of rabbitmq.conf puts before `/api`.
    """

    scheme: str
    host: str
    port: int
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    prefix: str = ""

    @property
    def tls(self) -> bool:
        """Whether it is encrypted."""
        return self.scheme == "https"

    @classmethod
    def parse(cls, text: str) -> "ManagementUrl":
        """Read a URL.

        Raises:
            ValueError: it is none.
        """
        try:
            url = urlsplit(text)
            port = url.port
            text.encode()
        except ValueError:
            # As above: its text quotes what may be the password.
            raise ValueError("host and port must be a name and a number") from None
        if url.scheme not in _MANAGEMENT_PORTS:
            raise ValueError("the scheme must be http or https")
        if not url.hostname:
            raise ValueError("the host is missing")
        if url.query or url.fragment or url.path.rstrip("/").endswith("/api"):
            raise ValueError("nothing may follow host and port but the API's path prefix, without /api")
        user = None if url.username is None else unquote(url.username)
        password = None if user is None else unquote(url.password or "")
        port = port or _MANAGEMENT_PORTS[url.scheme]
        return cls(url.scheme, url.hostname, port, user, password, url.path.rstrip("/"))

    @property
    def base(self) -> str:
        """The URL without user and password."""
        return f"{self.scheme}://{_bracketed(self.host)}:{self.port}{self.prefix}"

    def __str__(self) -> str:
        """The URL for eyes and logs: without the password."""
        if self.user is None:
            return self.base
        return self.base.replace("://", f"://{quote(self.user, safe='')}:***@", 1)


#: Where RabbitMQ's management plugin listens by default.
_MANAGEMENT_PORTS = {"http": 15672, "https": 15671}


@dataclass(frozen=True, slots=True)
class Address:
    """Where we listen: an IP address, or `localhost`, and a port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read `127.0.0.1:15700` or `[::1]:15700`.

        Raises:
            ValueError: it is none.
        """
        try:
            url = urlsplit(f"//{text}")
            host, port = url.hostname, url.port
            if host != "localhost":
                ipaddress.ip_address(host or "")
        except ValueError:
            raise ValueError("an IP address or localhost, a colon, a port; IPv6 in brackets") from None
        if url.netloc != text or "@" in text or not port:
            raise ValueError("an IP address or localhost, a colon, a port from 1 to 65535")
        return cls(host or "", port)

    def __str__(self) -> str:
        """As it is read."""
        return f"{_bracketed(self.host)}:{self.port}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
