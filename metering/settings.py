"""Settings: every one is an environment variable METERS_<NAME>, or a line of .env, with a working default.

Addresses left unset mean the local stack (`meters up`). Nothing here reads a file or the environment at import.
"""

import json
import re
from datetime import date
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from metering.addresses import (
    absolute,
    check_brokers,
    check_connect_url,
    check_database,
    check_mongo_uri,
    checked,
    usable_folder,
    usable_home,
)
from metering.addresses import check_http as _check_http
from metering.settings_errors import settings_error

LOOPBACK = "127.0.0.1"
REPLICA_SET = "meters"
SAFE_REPLICAS = 3

READINGS_TOPIC = "iot-meter"
DEAD_LETTERS_TOPIC = "iot-meter-dlq"
ABNORMAL_TOPIC = "iot-abnormal"

CHANNELS = ("log", "webhook", "email")

S3A_URL = re.compile(r"s3a://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<prefix>[^\s:@?#]*?))?/?")

HOST_NAME = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_-]+(\.[a-z0-9_-]+)*)(:[0-9]{1,5})?")


def _addresses(ports: range) -> str:
    return ",".join(f"{LOOPBACK}:{port}" for port in ports)


class Settings(BaseSettings):
    """What an installation may choose. Immutable; `load_settings()` gives the process's own."""

    model_config = SettingsConfigDict(
        env_prefix="METERS_", env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True, populate_by_name=True
    )

    home: Annotated[Path, AfterValidator(usable_home)] = Field(
        default=Path(".meters"), description="State of this installation: databases, logs, lake, Dagster."
    )
    cache_dir: Annotated[Path, AfterValidator(absolute)] = Field(
        default=Path("~/.cache/meters"), description="Downloaded jars, shared by all clones of a user."
    )

    mongo_uri: Annotated[str, AfterValidator(checked(check_mongo_uri))] | None = Field(
        default=None, description="MongoDB; unset: the local stack's. Needs replicaSet= for retries."
    )
    mongo_database: str = "iot"
    kafka_bootstrap: Annotated[str, AfterValidator(checked(check_brokers))] | None = Field(
        default=None, description="host:port[,host:port]; unset: the local stack's brokers."
    )
    kafka_partitions: int = Field(
        default=4, ge=1, le=1000, description="Partitions of topics that the platform creates."
    )
    kafka_replication: int | None = Field(
        default=None, ge=1, le=10, description="Replicas of those topics; unset: 3, or the cluster's own default."
    )
    spark_remote: Annotated[str, AfterValidator(checked(check_connect_url))] | None = Field(
        default=None, description="Spark Connect URL sc://…; unset: the local stack's."
    )
    spark_master: str | None = Field(
        default=None, description="A Spark master URL: each run starts its own session there."
    )
    spark_jars: str | None = Field(
        default=None, description="With METERS_SPARK_MASTER: comma-separated connector jars."
    )
    spark_memory: str = Field(default="2g", pattern=r"^\d+[mg]$", description="Heap of the local Spark driver.")

    mongod: Path | None = Field(
        default=None, description="mongod executable of the local stack; unset: PATH, then the wheel."
    )
    mongo_members: int = Field(default=1, ge=1, le=7, description="Members of the local stack's replica set.")
    kafka_brokers: int = Field(default=1, ge=1, le=9, description="Brokers of the local stack.")
    spark_workers: int = Field(
        default=0, ge=0, le=16, description="Workers of the local stack's standalone cluster; 0: Spark in one process."
    )
    mongo_port: int = Field(default=27117, ge=1, le=65535, description="Further members: the ports after it.")
    kafka_port: int = Field(default=29092, ge=1, le=65535, description="Further brokers: every second port after it.")
    kafka_controller_port: int = Field(
        default=29093, ge=1, le=65535, description="Further brokers: every second port after it."
    )
    spark_master_port: int = Field(
        default=7077, ge=1, le=65535, description="Its page: the port after it; then two ports for each worker."
    )
    spark_port: int = Field(default=15002, ge=1, le=65535)
    webserver_port: int = Field(default=3000, ge=1, le=65535)

    dagster_yaml: Path | None = Field(
        default=None, description="Configuration of the Dagster instance; unset: the local stack's, on SQLite."
    )
    ui_url: str | None = Field(
        default=None, description="Where people reach the Dagster UI, for links in alerts; unset: this machine's port."
    )
    ui_hosts: str = Field(
        default="",
        description="Hosts that the UI answers for, beside the loopback's names and METERS_UI_URL's: comma-separated.",
    )

    timezone: str = Field(default="UTC", description="The city's IANA time zone; its local days are the partitions.")
    first_day: date = Field(default=date(2006, 1, 1), description="First daily partition.")
    min_completeness: float = Field(
        default=0.9,
        ge=0,
        le=1,
        validation_alias=AliasChoices("METERS_MIN_COMPLETENESS", "METERS_LEAST_COMPLETENESS"),
        description="Warn of a day with less than this share of its expected readings.",
    )
    max_drift: float = Field(
        default=0.5,
        gt=0,
        validation_alias=AliasChoices("METERS_MAX_DRIFT", "METERS_MOST_DRIFT"),
        description="Warn of a total further than this share from the weekday's recent mean.",
    )
    late_quiet_seconds: int = Field(
        default=30, ge=0, description="Days with late readings are computed again once none has come for this long."
    )
    late_horizon_days: int = Field(
        default=400, ge=1, description="Figures that have stood longer than this wait for an operator's decision."
    )
    lake: str | None = Field(
        default=None, description="The Parquet lake: an absolute folder, or s3a://bucket/prefix; unset: <home>/lake."
    )
    # Named as every S3 client knows them. The keys are no settings: runtime/s3.py.
    s3_endpoint: str | None = Field(
        default=None, validation_alias="AWS_ENDPOINT_URL", description="http(s) address of its store; unset: Amazon S3."
    )
    s3_region: str = Field(default="us-east-1", validation_alias="AWS_REGION", description="Region of its bucket.")

    unknown_meters: bool = Field(default=True, description="Is a reading of a meter without registry entry a fault?")
    abnormal_topics: dict[str, str] = Field(
        default={}, description='Topics of their own for severities, as JSON: {"critical": "iot-abnormal-critical"}.'
    )
    router_master: str | None = Field(
        default=None, description="Spark master of the router; unset: local, a slot for each partition."
    )
    router_checkpoint: Annotated[str, AfterValidator(usable_folder)] | None = Field(
        default=None, description="Where the router keeps its place; unset: <home>/router."
    )
    router_mode: Literal["real-time", "micro-batch"] = Field(
        default="real-time", description="micro-batch for Spark installations without real-time mode."
    )
    router_sensor: bool = Field(
        default=True, description="Does Dagster's sensor keep the router alive? false where a service of its own does."
    )
    router_batch_seconds: int = Field(
        default=300, ge=5, le=3600, description="How long a real-time batch lasts; the registry is re-read after each."
    )
    alive_file: Path | None = Field(
        default=None, description="A file that ingest, router and simulator touch while they work: for health checks."
    )
    window_days: int = Field(default=7, ge=1, description="How long window_aggregates are kept, in days.")
    late_seconds: int = Field(default=600, ge=0, description="How late a reading may be and still count in a window.")

    episode_quiet_seconds: int = Field(
        default=3600, ge=1, description="Event time without faults after which a meter's episode is over."
    )
    alert_channels: str = Field(
        default="log", description="Where alerts go, comma-separated: log, webhook, email; none: kept only."
    )
    alert_max_age_hours: int = Field(
        default=24, ge=1, description="Episodes and silences that are longer past than this are not told: history."
    )
    alert_abnormal_share: float = Field(
        default=0.1, ge=0, le=1, description="Alert for a day with more than this share of abnormal meters; 1: never."
    )
    alert_abnormal_meters: int | None = Field(
        default=None, ge=0, description="Alert for a day with more than this many abnormal meters; unset: never."
    )
    alert_silent_intervals: int = Field(
        default=12, ge=1, description="A meter is silent after this many intervals without a reading."
    )
    webhook_url: SecretStr | None = Field(
        default=None, description="http(s) address that alerts are posted to; secret, for many carry a token."
    )
    webhook_secret: SecretStr | None = Field(default=None, description="Key of the webhook's HMAC-SHA256 signature.")
    smtp_host: str | None = Field(default=None, description="Mail server.")
    smtp_port: int = Field(default=587, ge=1, le=65535)
    smtp_starttls: bool = Field(default=True, description="Encrypt the connection to the mail server.")
    smtp_user: str | None = Field(default=None, description="Login at the mail server; unset: none.")
    smtp_password: SecretStr | None = None
    alert_mail_from: str | None = Field(default=None, description="Sender of alert mails.")
    alert_mail_to: str | None = Field(default=None, description="Receivers of alert mails, comma-separated.")

    metabase_url: str | None = Field(default=None, description="http(s) address of the Metabase to provision.")
    metabase_admin_email: str | None = Field(default=None, description="Login of its administrator.")
    metabase_admin_password: SecretStr | None = None
    metabase_mongo_uri: SecretStr | None = Field(
        default=None,
        description="MongoDB as Metabase reaches it: a read-only user's, with the database in its path; secret.",
    )

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"'{name}' is no IANA time zone; write one like Europe/Madrid") from error
        return name

    @field_validator("alert_channels")
    @classmethod
    def _known_channels(cls, names: str) -> str:
        chosen = [name.strip() for name in names.split(",")]
        for name in chosen:
            if name not in CHANNELS and chosen != ["none"]:
                raise ValueError(f"'{name}' is no channel; choose from {', '.join(CHANNELS)}, or none")
        return names

    @field_validator("lake")
    @classmethod
    def _folder_or_bucket(cls, lake: str | None) -> str | None:
        if lake and "://" in lake and not S3A_URL.fullmatch(lake):
            raise ValueError("write a folder, or a URL like s3a://bucket/prefix, without keys in it")
        return usable_folder(lake.rstrip("/") if "://" in lake else lake) if lake else lake

    @field_validator("webhook_url")
    @classmethod
    def _http_address(cls, url: SecretStr | None) -> SecretStr | None:
        _check_http(url.get_secret_value() if url else None)
        return url

    @field_validator("ui_hosts")
    @classmethod
    def _host_names(cls, names: str) -> str:
        for name in _listed(names):
            if not HOST_NAME.fullmatch(name.lower()):
                raise ValueError(f"'{name}' is no host; write names like dagster.example.org or 10.0.0.5:3000")
        return names

    @field_validator("metabase_url", "s3_endpoint", "ui_url")
    @classmethod
    def _open_http_address(cls, url: str | None) -> str | None:
        _check_http(url)
        return url

    @model_validator(mode="after")
    def _one_database(self) -> Self:
        check_database(self.mongo_uri or "", self.mongo_database)
        return self

    @property
    def channels(self) -> tuple[str, ...]:
        """The alert channels chosen, each once."""
        names = (name.strip() for name in self.alert_channels.split(","))
        return tuple(name for name in dict.fromkeys(names) if name != "none")

    @property
    def ui_host_names(self) -> tuple[str, ...]:
        """The further hosts that the UI answers for."""
        return _listed(self.ui_hosts)

    @property
    def zone(self) -> ZoneInfo:
        """The city's time zone."""
        return ZoneInfo(self.timezone)

    @property
    def mongo_ports(self) -> range:
        """A port for each member of the local replica set."""
        return range(self.mongo_port, self.mongo_port + self.mongo_members)

    @property
    def kafka_ports(self) -> range:
        """A port for each local broker; by default those in between are their controllers'."""
        return range(self.kafka_port, self.kafka_port + 2 * self.kafka_brokers, 2)

    @property
    def kafka_controller_ports(self) -> range:
        """A port for each local broker's controller."""
        return range(self.kafka_controller_port, self.kafka_controller_port + 2 * self.kafka_brokers, 2)

    @property
    def mongo(self) -> str:
        """The MongoDB URI in force."""
        return self.mongo_uri or f"mongodb://{_addresses(self.mongo_ports)}/?replicaSet={REPLICA_SET}"

    @property
    def kafka(self) -> str:
        """The Kafka bootstrap addresses in force."""
        return self.kafka_bootstrap or _addresses(self.kafka_ports)

    @property
    def replication(self) -> int | None:
        """Replicas of topics that the platform creates; None: as many as the cluster's own default says."""
        return self.kafka_replication or (None if self.kafka_bootstrap else min(SAFE_REPLICAS, self.kafka_brokers))

    @property
    def min_in_sync(self) -> int:
        """Replicas that must have a message before it counts as sent: with three, one may be away and work goes on."""
        return 2 if (self.replication or 1) >= SAFE_REPLICAS else 1

    @property
    def spark(self) -> str:
        """The Spark Connect URL in force."""
        return self.spark_remote or f"sc://{LOOPBACK}:{self.spark_port}"

    @property
    def ui(self) -> str:
        """Address of the Dagster UI, without a slash at its end."""
        return (self.ui_url or f"http://{LOOPBACK}:{self.webserver_port}").rstrip("/")

    @property
    def lake_path(self) -> str:
        """The lake's root: a folder or a URL."""
        return self.lake or str(self.home / "lake")

    @property
    def is_lake_in_s3(self) -> bool:
        """Is the lake in an object store?"""
        return "://" in self.lake_path

    @property
    def router_place(self) -> str:
        """The router's checkpoint folder."""
        return self.router_checkpoint or str(self.home / "router")

    @property
    def fault_topics(self) -> tuple[str, ...]:
        """Every topic that faults are routed to."""
        return tuple(dict.fromkeys([ABNORMAL_TOPIC, *self.abnormal_topics.values()]))

    @property
    def dagster_home(self) -> Path:
        """DAGSTER_HOME of this installation."""
        return self.home / "dagster"

    def environment(self) -> dict[str, str]:
        """This object as METERS_* variables, secrets in the clear, to hand to a child process and to nobody else."""
        values = self.model_dump(mode="json")
        for name in values:
            if isinstance(secret := getattr(self, name), SecretStr):
                values[name] = secret.get_secret_value()
        return {
            _variable(name): json.dumps(value) if isinstance(value, dict) else str(value)
            for name, value in values.items()
            if value is not None
        }


def _listed(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(",") if name.strip())


def _variable(name: str) -> str:
    """The environment variable of a field, or of an alias, which is one itself; of several, the newest."""
    field = Settings.model_fields.get(name)
    alias = field.validation_alias if field else name.upper()
    if isinstance(alias, AliasChoices):
        alias = alias.choices[0]
    return alias if isinstance(alias, str) else f"METERS_{name.upper()}"


@cache
def load_settings() -> Settings:
    """The settings of this process, read once.

    Raises:
        MetersError: a variable has a value that it cannot have.
    """
    try:
        return Settings()
    except (ValidationError, SettingsError, OSError, UnicodeDecodeError) as error:
        raise settings_error(error, _variable) from None
