"""Which hosts a server answers for, and whose pages may use it: the reading of Host and Origin headers."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})

AUTHORITY = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9_-]+(?:\.[a-z0-9_-]+)*)(?::(?P<port>[0-9]{1,5}))?")
DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Authority:
    """A host's name, lower case, and its port. None: the port that the scheme implies."""

    name: str
    port: int | None

    @classmethod
    def of(cls, text: str) -> Self | None:
        """The authority that a Host header or a setting names; None: it names none."""
        match = AUTHORITY.fullmatch(text.lower())
        return cls(match["name"], int(match["port"]) if match["port"] else None) if match else None


@dataclass(frozen=True)
class Origin:
    """Where a page comes from: scheme, name and port, none of them left out."""

    scheme: str
    name: str
    port: int

    @classmethod
    def of(cls, text: str) -> Self | None:
        """The origin that a header or a URL names; None: it is `null`, or no web page's."""
        scheme, separator, rest = text.partition("://")
        scheme = scheme.lower()
        authority = Authority.of(rest) if separator else None
        if authority is None or scheme not in DEFAULT_PORTS:
            return None
        return cls(scheme, authority.name, authority.port or DEFAULT_PORTS[scheme])

    def is_at(self, host: Authority) -> bool:
        """Is that host this origin's own? Which scheme the host was asked by is not known behind a proxy."""
        return self.name == host.name and self.port == (host.port or DEFAULT_PORTS[self.scheme])


class AllowedHosts:
    """The loopback's names at any port, a URL's host, and what else is named.

    A name of the loopback cannot be made to lead here from elsewhere, so its port does not matter: it differs behind
    `ssh -L` or a container's mapping. Any other name counts only if it is meant, against DNS rebinding.

    Args:
        url: where people reach the server, if that is known.
        names: further hosts: `name`, at any port, or `name:port`.
    """

    def __init__(self, url: str | None = None, names: Iterable[str] = ()) -> None:
        named = [Authority.of(name) for name in names]
        if None in named:
            raise ValueError("a host is a name like dagster.example.org or dagster.example.org:8443")
        self._hosts = {host for host in named if host}
        schemes = DEFAULT_PORTS.items()
        self._origins = {
            Origin(scheme, host.name, host.port or port) for host in self._hosts for scheme, port in schemes
        }
        if url and (own := Origin.of("://".join(urlsplit(url)[:2]))):
            self._hosts.add(Authority(own.name, None))
            self._origins.add(own)

    def has(self, host: Authority) -> bool:
        """Does the server answer for this host?"""
        return host.name in LOOPBACK_NAMES or host in self._hosts or Authority(host.name, None) in self._hosts

    def may_use(self, origin: str, host: Authority) -> bool:
        """May a page of this origin use the server at this host? Its own pages, and those of hosts that are named.

        Another port of the loopback is another program's, whose pages are as foreign as any.

        Args:
            origin: value of an Origin header.
            host: which the request named, and `has` allows.
        """
        page = Origin.of(origin)
        return page is not None and (page.is_at(host) or page in self._origins)
