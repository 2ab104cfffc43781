"""Makes the containers' MongoDB usable: initiates the replica set, adds members, creates the two users.

Runs at each start and changes only what differs: a new member in MONGO_MEMBERS joins, a new password takes effect. The
root user is there already: MongoDB's own image makes it on an empty volume.

Environment: MONGO_MEMBERS (host:port, comma-separated, the one with the root user first), MONGO_ROOT_PASSWORD,
MONGO_APP_PASSWORD, MONGO_READER_PASSWORD.
"""

import os
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

from pymongo import MongoClient
from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError

REPLICA_SET = "meters"
DATABASE = "iot"

USERS = {
    # dbAdmin: collections get validators, which may change with a new version.
    "meters": ("MONGO_APP_PASSWORD", ["readWrite", "dbAdmin"]),
    "reader": ("MONGO_READER_PASSWORD", ["read"]),
}

WAIT_SECONDS = 180
POLL_SECONDS = 0.5

AUTHENTICATION_FAILED = 18
NODE_NOT_FOUND = 74
NOT_YET_INITIALIZED = 94
CONFIGURATION_IN_PROGRESS = 109
CURRENT_CONFIG_NOT_COMMITTED = 308

TRY_AGAIN = {NODE_NOT_FOUND, CONFIGURATION_IN_PROGRESS, CURRENT_CONFIG_NOT_COMMITTED}

T = TypeVar("T")


def patiently(what: str, attempt: Callable[[], T | None]) -> T:
    """Try until there is an answer; members may still be starting.

    Raises:
        SystemExit: not within WAIT_SECONDS, or it is refused.
    """
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            if (answer := attempt()) is not None:
                return answer
            reason = "no answer yet"
        except ConnectionFailure as error:
            reason = str(error)
        except OperationFailure as error:
            if error.code not in TRY_AGAIN:
                raise
            reason = str(error.details.get("errmsg") if error.details else error)
        if time.monotonic() > deadline:
            sys.exit(f"error: {what}: not within {WAIT_SECONDS} s: {reason[:300]}")
        time.sleep(POLL_SECONDS)


def root(host: str, **options: Any) -> MongoClient:
    """A client with the root user's rights."""
    return MongoClient(
        f"mongodb://{host}/",
        username="root",
        password=os.environ["MONGO_ROOT_PASSWORD"],
        authSource="admin",
        serverSelectionTimeoutMS=5000,
        **options,
    )


def configuration(client: MongoClient) -> dict[str, Any] | None:
    """The replica set's configuration; None before it is initiated."""
    try:
        return client.admin.command("replSetGetConfig")["config"]
    except OperationFailure as error:
        if error.code != NOT_YET_INITIALIZED:
            raise
        return None


def initiate(hosts: list[str]) -> None:
    """Make the first member a replica set of all of them, unless it is in one."""
    with root(hosts[0], directConnection=True) as client:
        patiently("MongoDB does not answer", lambda: client.admin.command("ping"))
        if configuration(client) is None:
            members = [{"_id": number, "host": host} for number, host in enumerate(hosts)]
            wanted = {"_id": REPLICA_SET, "members": members}
            patiently("The replica set", lambda: client.admin.command("replSetInitiate", wanted))
            print(f"mongo-init: replica set {REPLICA_SET} of {', '.join(hosts)}")


def add_members(client: MongoClient, hosts: list[str]) -> None:
    """Have further members join, one after the other, as MongoDB demands."""
    for host in hosts:
        config = configuration(client) or {}
        if host in [member["host"] for member in config["members"]]:
            continue
        config["version"] += 1
        config["members"].append({"_id": max(member["_id"] for member in config["members"]) + 1, "host": host})
        patiently(f"{host} does not join", lambda config=config: client.admin.command("replSetReconfig", config))
        print(f"mongo-init: {host} has joined")


def set_users(client: MongoClient) -> None:
    """Create the users, or give them the passwords of today."""
    for name, (variable, roles) in USERS.items():
        exists = client.admin.command("usersInfo", name)["users"]
        client.admin.command(
            "updateUser" if exists else "createUser",
            name,
            pwd=os.environ[variable],
            roles=[{"role": role, "db": DATABASE} for role in roles],
            writeConcern={"w": "majority"},
        )


def main() -> None:
    """Do it, or say in one line why not."""
    hosts = os.environ["MONGO_MEMBERS"].split(",")
    try:
        initiate(hosts)
        with root(",".join(hosts), replicaSet=REPLICA_SET) as client:
            patiently("No primary is elected", lambda: client.admin.command("hello").get("isWritablePrimary") or None)
            add_members(client, hosts)
            set_users(client)
    except OperationFailure as error:
        if error.code == AUTHENTICATION_FAILED:
            sys.exit("error: MONGO_ROOT_PASSWORD is not the one that MongoDB's volume was made with. Fix: restore .env")
        sys.exit(f"error: MongoDB refused: {(error.details or {}).get('errmsg', error)}")
    except PyMongoError as error:
        sys.exit(f"error: {str(error)[:300]}")
    print("mongo-init: users are in place")


if __name__ == "__main__":
    main()
