"""Settings: every one is an environment variable METERS_<NAME>, or a line of .env, with a working default.

Addresses left unset mean the local stack (`meters up`). Nothing here reads a file or the environment at import.
"""

from datetime import date
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from metering.errors import MetersError

LOOPBACK = "127.0.0.1"
REPLICA_SET = "meters"

READINGS_TOPIC = "iot-meter"
DEAD_LETTERS_TOPIC = "iot-meter-dlq"
ABNORMAL_TOPIC = "iot-abnormal"


class Settings(BaseSettings):
    """What an installation may choose. Immutable; `load_settings()` gives the process's own."""

    model_config = SettingsConfigDict(
        env_prefix="METERS_", env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True
    )

    home: Path = Field(
        default=Path(".meters"), description="State of this installation: databases, logs, lake, Dagster."
    )
    cache_dir: Path = Field(
        default=Path("~/.cache/meters"), description="Downloaded jars, shared by all clones of a user."
    )

    mongo_uri: str | None = Field(
        default=None, description="MongoDB; unset: the local stack's. Needs replicaSet= for retries."
    )
    mongo_database: str = "iot"
    kafka_bootstrap: str | None = Field(
        default=None, description="host:port[,host:port]; unset: the local stack's broker."
    )
    kafka_partitions: int = Field(
        default=4, ge=1, le=1000, description="Partitions of topics that the platform creates."
    )
    spark_remote: str | None = Field(default=None, description="Spark Connect URL sc://…; unset: the local stack's.")
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
    mongo_port: int = Field(default=27117, ge=1, le=65535)
    kafka_port: int = Field(default=29092, ge=1, le=65535)
    kafka_controller_port: int = Field(default=29093, ge=1, le=65535)
    spark_port: int = Field(default=15002, ge=1, le=65535)
    webserver_port: int = Field(default=3000, ge=1, le=65535)

    timezone: str = Field(default="UTC", description="The city's IANA time zone; its local days are the partitions.")
    first_day: date = Field(default=date(2006, 1, 1), description="First daily partition.")
    lake: str | None = Field(default=None, description="Folder of the Parquet lake; unset: <home>/lake.")

    @field_validator("home", "cache_dir", mode="after")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        # Child processes run elsewhere: a relative path must mean the same place for them.
        return path.expanduser().absolute()

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"'{name}' is no IANA time zone; write one like Europe/Madrid") from error
        return name

    @property
    def zone(self) -> ZoneInfo:
        """The city's time zone."""
        return ZoneInfo(self.timezone)

    @property
    def mongo(self) -> str:
        """The MongoDB URI in force."""
        return self.mongo_uri or f"mongodb://{LOOPBACK}:{self.mongo_port}/?replicaSet={REPLICA_SET}"

    @property
    def kafka(self) -> str:
        """The Kafka bootstrap addresses in force."""
        return self.kafka_bootstrap or f"{LOOPBACK}:{self.kafka_port}"

    @property
    def spark(self) -> str:
        """The Spark Connect URL in force."""
        return self.spark_remote or f"sc://{LOOPBACK}:{self.spark_port}"

    @property
    def lake_path(self) -> str:
        """The lake's root: a folder or a URL."""
        return self.lake or str(self.home / "lake")

    @property
    def dagster_home(self) -> Path:
        """DAGSTER_HOME of this installation."""
        return self.home / "dagster"

    def environment(self) -> dict[str, str]:
        """This object as METERS_* variables, to hand to a child process."""
        return {
            f"METERS_{name.upper()}": str(value)
            for name, value in self.model_dump(mode="json").items()
            if value is not None
        }


@cache
def load_settings() -> Settings:
    """The settings of this process, read once.

    Raises:
        MetersError: a variable has a value that it cannot have.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(part) for part in first["loc"]).upper()
        raise MetersError(
            f"Setting METERS_{name} is not usable: {first['msg'].removeprefix('Value error, ')}",
            fix="Correct it in the environment or in .env",
        ) from None
