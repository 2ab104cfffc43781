"""`meters init-env`: the .env that docker-compose.yml reads, with secrets that nobody else has."""

import base64
import os
import secrets
import uuid
from pathlib import Path
from typing import Annotated

import typer

from meter_cli.console import err
from metering.errors import MetersError

PASSWORDS = (
    "MONGO_ROOT_PASSWORD",
    "MONGO_APP_PASSWORD",
    "MONGO_READER_PASSWORD",
    "MONGO_KEY",  # the members' key to each other; MongoDB takes base64 characters, and hex digits are some of them
    "POSTGRES_PASSWORD",
    "DAGSTER_POSTGRES_PASSWORD",
    "METABASE_POSTGRES_PASSWORD",
    "METABASE_ENCRYPTION_KEY",
    "METABASE_ADMIN_PASSWORD",
    "S3_ACCESS_KEY",
    "S3_SECRET_KEY",
    "MONGO_EXPRESS_PASSWORD",
    "MONGO_EXPRESS_COOKIE_SECRET",
    "MONGO_EXPRESS_SESSION_SECRET",
)

CLUSTER = """
# Three brokers, three MongoDB members, Spark's master and workers. Delete these lines for one of each.
COMPOSE_PROFILES=cluster
KAFKA_BROKERS=kafka:9092,kafka-2:9092,kafka-3:9092
KAFKA_VOTERS=1@kafka:9093,2@kafka-2:9093,3@kafka-3:9093
KAFKA_REPLICATION=3
KAFKA_MIN_ISR=2
MONGO_MEMBERS=mongo:27017,mongo-2:27017,mongo-3:27017
SPARK_MASTER_URL=spark://spark-master:7077
"""


def init_env(
    cluster: Annotated[bool, typer.Option("--cluster", help="Settings of the profile `cluster` as well.")] = False,
    email: Annotated[str, typer.Option(help="Login of Metabase's administrator.")] = "admin@example.org",
    file: Annotated[Path, typer.Option(help="Where to write.", dir_okay=False)] = Path(".env"),
) -> None:
    """Write a .env with fresh secrets for docker compose; an existing one is never touched."""
    try:
        # Readable for its owner alone from the first byte on; and never instead of a file that holds the only copy of
        # the passwords to a volume.
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise MetersError(
            f"{file} is there already: its secrets open the volumes that were made with it",
            fix="Keep it; or name another: --file other.env, then docker compose --env-file other.env",
        ) from None
    except OSError as error:
        raise MetersError(f"{file} cannot be written: {error.strerror}", fix="Name another with --file") from None
    with os.fdopen(descriptor, "w") as output:
        output.write(environment(email, cluster=cluster))
    err.print(f"{file} is written, for you alone to read. Keep a copy: it opens the volumes", soft_wrap=True)


def environment(email: str, *, cluster: bool) -> str:
    """The text of a new .env; each call draws other secrets."""
    lines = [
        "# Read by docker compose alone. Made by `meters init-env`; settings of the platform go to meters.env.",
        f"METABASE_ADMIN_EMAIL={email}",
        f"KAFKA_CLUSTER_ID={_kafka_id()}",
        # Hex: it needs no escape in a URI, a shell or a YAML file.
        *(f"{name}={secrets.token_hex(32)}" for name in PASSWORDS),
    ]
    return "\n".join(lines) + "\n" + (CLUSTER if cluster else "")


def _kafka_id() -> str:
    # A leading dash would look like an option where Kafka's tools take it.
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "a")
