"""Does a service answer? More than a connection: the kernel takes those for a process that hangs or is stopped, too."""

import socket
import struct

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

ANSWER_WITHIN_SECONDS = 2.0

# Kafka's ApiVersions, version 0, without a client's name; HTTP/2's preface with empty settings, as gRPC begins.
_GREETINGS = {
    "kafka": struct.pack(">ihhih", 10, 18, 0, 1, -1),
    "spark": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0",
}


def answers(kind: str, address: str) -> bool:
    """Does it react to its protocol's first message at host:port? Of other kinds only a connection is asked for."""
    host, _, port = address.rpartition(":")
    if kind == "mongo":
        return answers_mongo(f"mongodb://{address}/?directConnection=true")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_WITHIN_SECONDS) as connection:
            if greeting := _GREETINGS.get(kind):
                connection.sendall(greeting)
                return bool(connection.recv(1))
            return True
    except (OSError, ValueError, OverflowError):
        return False


def answers_mongo(uri: str) -> bool:
    """Does a server of the URI answer? One that refuses the login does."""
    milliseconds = int(ANSWER_WITHIN_SECONDS * 1000)
    try:
        client: MongoClient = MongoClient(
            uri,
            serverSelectionTimeoutMS=milliseconds,
            connectTimeoutMS=milliseconds,
            socketTimeoutMS=milliseconds,
        )
    except (PyMongoError, ValueError):
        return False
    try:
        client.admin.command("hello")
    except OperationFailure:
        return True
    except PyMongoError:
        return False
    finally:
        client.close()
    return True
