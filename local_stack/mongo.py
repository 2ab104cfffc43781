"""MongoDB of the local stack: mongod as a replica set, also when it is alone, so that writes can be retried."""

from typing import Any

from bson import Int64
from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.write_concern import WriteConcern

from local_stack.mongod import find_mongod
from local_stack.service import NotReadyError, Service
from metering.settings import LOOPBACK, REPLICA_SET

NOT_YET_INITIALIZED = 94
PROBE_TIMEOUT_MS = 2000
ELECTION_MS = 5000
"""How long the others wait for a silent primary: well within a client's patience of ten seconds."""

SINGLE_CACHE_GB, CLUSTER_CACHE_GB = "1", "0.5"


class Mongo(Service):
    """A mongod; the first one also looks after the replica set's configuration."""

    kind = "mongo"
    kind_title = "MongoDB"

    @property
    def port(self) -> int:
        """Mongod's port."""
        return self.settings.mongo_ports[self.number - 1]

    def prepare(self) -> None:
        """Make the data folder."""
        (self.folder / "data").mkdir(exist_ok=True)

    def command(self) -> list[str]:
        """Mongod on the loopback, with zlib off."""
        return [
            str(find_mongod(self.settings)),
            *("--dbpath", str(self.folder / "data")),
            *("--bind_ip", LOOPBACK, "--port", str(self.port)),
            *("--replSet", REPLICA_SET, "--oplogSize", "1024"),
            # The wheel's mongod is old: its zlib decompressor leaks memory to whoever can connect (CVE-2025-14847).
            *("--networkMessageCompressors", "snappy,zstd"),
            *("--wiredTigerCacheSizeGB", SINGLE_CACHE_GB if self.settings.mongo_members == 1 else CLUSTER_CACHE_GB),
            *("--setParameter", "diagnosticDataCollectionEnabled=false"),
            # A stop ends all members: it need not wait for clients to find another primary.
            *("--setParameter", "shutdownTimeoutMillisForSignaledShutdown=0"),
            "--nounixsocket",
            "--quiet",
            *self.arguments,
        ]

    def probe(self) -> str:
        """Take part in a replica set that has a primary, under the right address; the primary acknowledges a write."""
        uri = f"mongodb://{self.address}/?directConnection=true&retryWrites=false"
        client = MongoClient(
            uri, serverSelectionTimeoutMS=PROBE_TIMEOUT_MS, connectTimeoutMS=PROBE_TIMEOUT_MS, socketTimeoutMS=10_000
        )
        try:
            if self.number == 1:
                self._ensure_replica_set(client)
            hello = client.admin.command("hello")
            if not hello.get("primary") or not (hello.get("isWritablePrimary") or hello.get("secondary")):
                raise NotReadyError("no primary is elected")
            if hello.get("me") != self.address:
                raise NotReadyError(f"the replica set calls itself {hello.get('me')}")
            if hello["isWritablePrimary"]:
                local = client.get_database("local", write_concern=WriteConcern(w=1, j=True))
                local["meters_probe"].replace_one({"_id": 1}, {"n": Int64(1)}, upsert=True)
            return str(client.server_info()["version"])
        except PyMongoError as error:
            raise NotReadyError(str(error)) from None
        finally:
            client.close()

    def _ensure_replica_set(self, client: MongoClient) -> None:
        members: list[dict[str, Any]] = [
            {"_id": number, "host": f"{LOOPBACK}:{port}"} for number, port in enumerate(self.settings.mongo_ports)
        ]
        try:
            config = client.admin.command("replSetGetConfig")["config"]
        except OperationFailure as error:
            if error.code != NOT_YET_INITIALIZED:
                raise
            wanted = {"_id": REPLICA_SET, "members": members, "settings": {"electionTimeoutMillis": ELECTION_MS}}
            client.admin.command("replSetInitiate", wanted)
            return
        if [member["host"] for member in config["members"]] != [member["host"] for member in members]:
            # The data folder was made under other ports; its node takes itself for removed until told otherwise.
            config["members"] = members
            config["version"] += 1
            client.admin.command("replSetReconfig", config, force=True)
