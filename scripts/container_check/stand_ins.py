"""What stands in for the images of others, which cannot be pulled without a registry: their servers, from packages.

Each does what the image's own start script does with the settings that the compose file gives it, so these settings are
what is tried, not the image. The servers' versions differ where a package brings another.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

KAFKA = """
set -e
properties=/tmp/server.properties
# As the image does: KAFKA_LOG_DIRS becomes log.dirs.
env | grep '^KAFKA_' | grep -v '^KAFKA_HEAP_OPTS=' | while IFS='=' read -r name value; do
    printf '%s=%s\\n' "$(printf %s "${name#KAFKA_}" | tr 'A-Z_' 'a-z.')" "$value"
done > $properties
options="$KAFKA_HEAP_OPTS -Dlog4j2.configurationFile=/opt/kafka/log4j2.properties"
run() { exec java $options -cp '/opt/kafka/libs/*' "$@"; }
(run kafka.tools.StorageTool format --ignore-formatted -t "$CLUSTER_ID" -c $properties)
run kafka.Kafka $properties
"""

# In place of the image's docker-entrypoint.sh: the root user on an empty volume, made before access control is on.
MONGO = """#!/bin/bash
set -e
data=/data/db
chown -R mongodb $data
if [ -n "$MONGO_INITDB_ROOT_PASSWORD" ] && [ ! -e $data/WiredTiger ]; then
    setpriv --reuid=mongodb --regid=mongodb --clear-groups \\
        mongod --dbpath $data --bind_ip 127.0.0.1 --fork --logpath /tmp/first.log --pidfilepath /tmp/first.pid \\
        > /dev/null
    /opt/meters/venv/bin/python -c '
import os, pymongo
admin = pymongo.MongoClient("mongodb://127.0.0.1", directConnection=True).admin
password = os.environ["MONGO_INITDB_ROOT_PASSWORD"]
admin.command("createUser", os.environ["MONGO_INITDB_ROOT_USERNAME"], pwd=password, roles=["root"])'
    kill "$(cat /tmp/first.pid)"
    while [ -e /proc/"$(cat /tmp/first.pid)" ]; do sleep 0.1; done
fi
unset MONGO_INITDB_ROOT_USERNAME MONGO_INITDB_ROOT_PASSWORD
exec setpriv --reuid=mongodb --regid=mongodb --clear-groups "$@" --dbpath $data
"""

POSTGRES = """
set -e
data=/var/lib/postgresql/data
chmod 700 $data
if [ ! -e $data/PG_VERSION ]; then
    printf %s "$POSTGRES_PASSWORD" > /tmp/password
    initdb --pgdata=$data --username=postgres --pwfile=/tmp/password --auth-host=scram-sha-256 > /dev/null
    echo 'host all all all scram-sha-256' >> $data/pg_hba.conf
    pg_ctl --pgdata=$data --silent --wait --options="-c listen_addresses= -k /tmp" --log=/tmp/first.log start
    cd /docker-entrypoint-initdb.d
    psql --quiet --host=/tmp --username=postgres --set=ON_ERROR_STOP=1 --file=postgres-init.sql
    pg_ctl --pgdata=$data --silent --wait stop
fi
exec postgres -D $data -c listen_addresses=* -k /tmp
"""


@dataclass(frozen=True)
class StandIn:
    """How an image's server is run without the image.

    Attributes:
        says: for the report.
        root: its file system; None: our image's.
        command: None: the compose file's own.
        user: its user's number.
        mounts: further ones, target to source.
        environment: further variables.
        health: replaces the compose file's check, which needs a tool of the image.
    """

    says: str
    root: Path | None = None
    command: list[str] | None = None
    user: int | None = None
    mounts: Mapping[str, Path] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    health: list[str] | None = None


def stand_ins(folder: Path, broker_jars: Path, log4j: Path, mongod: Path, debian: Path) -> dict[str, StandIn]:
    """By the image's name without its tag.

    Args:
        folder: for files that they need.
        broker_jars: folder of the Kafka broker's jars.
        log4j: the broker's log configuration.
        mongod: executable.
        debian: file system of a Debian with PostgreSQL.
    """
    entrypoint = folder / "docker-entrypoint.sh"
    entrypoint.write_text(MONGO)
    entrypoint.chmod(0o755)
    hello = (
        'import pymongo as p, sys; sys.exit("setName" not in p.MongoClient("127.0.0.1", directConnection=True).admin'
    )
    return {
        "apache/kafka": StandIn(
            says="the broker's jars from Maven, in our image's file system",
            command=["/bin/sh", "-c", KAFKA],
            user=1000,
            environment={"PATH": "/usr/bin:/bin"},
            mounts={"/opt/kafka/libs": broker_jars, "/opt/kafka/log4j2.properties": log4j},
            health=["/opt/meters/venv/bin/python", "-c", KAFKA_HEALTH],
        ),
        "mongo": StandIn(
            says="the mongod of the local stack, in our image's file system",
            mounts={"/usr/local/bin/mongod": mongod, "/usr/local/bin/docker-entrypoint.sh": entrypoint},
            environment={"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
            health=["/opt/meters/venv/bin/python", "-c", f'{hello}.command("hello"))'],
        ),
        "postgres": StandIn(
            says="Debian's PostgreSQL 15",
            root=debian,
            command=["/bin/sh", "-c", POSTGRES],
            user=(debian / "var/lib/postgresql").stat().st_uid,
            environment={"PATH": "/usr/lib/postgresql/15/bin:/usr/bin:/bin", "LANG": "C.UTF-8"},
        ),
    }


KAFKA_HEALTH = """
from kafka import KafkaAdminClient
KafkaAdminClient(bootstrap_servers="127.0.0.1:9092").list_topics()
"""
