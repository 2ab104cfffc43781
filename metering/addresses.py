"""What addresses and folders of settings may look like, in words that repeat no password.

Errors of the libraries that use them are not repeated: pymongo's name a part of a password whose characters are not
escaped. Each function raises ValueError, which pydantic turns into the line about the setting.
"""

import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

MONGO_SCHEMES = ("mongodb://", "mongodb+srv://")
MONGO_PORT = 27017

PATTERN_CHARACTERS = "[]{}*?\\"
"""Spark and Hadoop read a path with one of these as a pattern."""


def check_mongo_uri(uri: str) -> None:
    """See that pymongo takes the URI; names of srv records are not looked up."""
    from pymongo.errors import PyMongoError
    from pymongo.uri_parser import parse_uri

    scheme = next((each for each in MONGO_SCHEMES if uri.startswith(each)), None)
    if scheme is None:
        raise ValueError("a MongoDB URI begins with mongodb://, like mongodb://host:27017/?replicaSet=name")
    # Without its name, an srv URI has the same form, and nobody need ask a name server.
    plain = "mongodb://" + uri.removeprefix(scheme)
    try:
        parse_uri(plain, warn=False)
    except (PyMongoError, ValueError) as error:
        if "@" in uri:
            raise ValueError(
                "it is no MongoDB URI. Write mongodb://user:password@host:27017/?replicaSet=name; in user and password "
                "write : / ? # [ ] @ % as %3A %2F %3F %23 %5B %5D %40 %25"
            ) from None
        raise ValueError(f"it is no MongoDB URI: {str(error).rstrip(chr(46))}") from None


def mongo_hosts(uri: str) -> str:
    """The hosts of a MongoDB URI with their ports, without credentials, whatever else the URI is."""
    rest = uri.split("://", 1)[-1]
    hosts = re.split(r"[/?]", rest.rpartition("@")[2])[0]
    if uri.startswith("mongodb+srv"):
        return hosts
    return ",".join(host if _has_port(host) else f"{host}:{MONGO_PORT}" for host in hosts.split(","))


def redact(text: str) -> str:
    """The URI, or a text with URIs in it, with passwords, and any token among parameters, replaced by ***."""
    text = re.sub(r"(://[^:/@?\s]*):[^\n]*@", r"\1:***@", text)
    return re.sub(r"((?:token|password|secret)[^=&;/\s]*)=[^&;/\s]*", r"\1=***", text, flags=re.IGNORECASE)


def database_of(uri: str) -> str | None:
    """The database that a MongoDB URI names in its path; None where it names none."""
    path = urlsplit(uri).path.strip("/")
    return path.split(".", 1)[0] or None


def check_database(uri: str, database: str) -> None:
    """See that the URI names no other database than the setting does."""
    named = database_of(uri)
    if named and named != database:
        raise ValueError(
            f"METERS_MONGO_URI names the database {named}, and METERS_MONGO_DATABASE is {database}; set "
            f"METERS_MONGO_DATABASE={named}, or take it out of the URI and name the login's with authSource="
        )


def check_brokers(addresses: str) -> None:
    """See that it is a list of host:port."""
    for address in addresses.split(","):
        host, _, port = address.strip().rpartition(":")
        if not host or "/" in address or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError("write addresses like host:9092,host2:9092")


def check_connect_url(url: str) -> None:
    """See that it is a Spark Connect URL."""
    if not re.match(r"sc://[^/\s]+", url):
        raise ValueError("write a Spark Connect URL like sc://host:15002")


def checked(check: Callable[[str], None]) -> Callable[[str], str]:
    """A validator that lets pass what the check accepts, and an empty value."""

    def validate(value: str) -> str:
        if value:
            check(value)
        return value

    return validate


def usable_folder(place: str) -> str:
    """The folder or URL, with a leading ~ expanded."""
    if "://" not in place:
        place = str(Path(place).expanduser())
        check_folder(place)
    return place


def absolute(path: Path) -> Path:
    """The path from the root on: child processes run elsewhere, and it must mean the same folder for them."""
    return path.expanduser().absolute()


def usable_home(home: Path) -> Path:
    """The installation's folder from the root on, without a pattern: the lake is in it."""
    home = absolute(home)
    check_folder(str(home))
    return home


def check_folder(folder: str) -> None:
    """See that every process finds the same folder there, and Spark no pattern."""
    if not folder.startswith("/"):
        raise ValueError("write the folder from the root on, like /var/lib/meters/lake: processes run in other folders")
    strange = [each for each in folder if each in PATTERN_CHARACTERS or not each.isprintable()]
    if strange:
        raise ValueError(f"Spark takes a folder with {ascii(strange[0])[1:-1]} in its name for a pattern")


def check_http(url: str | None) -> None:
    """See that it is an http(s) address."""
    address = urlsplit(url) if url else None
    if address and (address.scheme not in ("http", "https") or not address.hostname):
        raise ValueError("it must begin with http:// or https:// and name a host")


def _has_port(host: str) -> bool:
    return host.rpartition(":")[2].isdecimal() and not host.endswith("]")
