"""Which ports the local stack listens on, and the setting that moves each."""

from collections.abc import Sequence
from dataclasses import dataclass

from metering.settings import Settings

KINDS = ("mongo", "kafka", "spark", "webserver")


@dataclass(frozen=True)
class Port:
    """A port that a service listens on.

    Args:
        setting: the setting that it follows from.
        number: the port.
        service: the kind of service: mongo, kafka, spark or webserver.
        offset: how far above the setting's value it is.
    """

    setting: str
    number: int
    service: str
    offset: int

    @property
    def name(self) -> str:
        """Like `kafka_port`, or `kafka_port+2` for a second broker's."""
        return f"{self.setting}+{self.offset}" if self.offset else self.setting

    @property
    def fix(self) -> str:
        """How to move it."""
        variable = f"METERS_{self.setting.upper()}"
        return (
            f"Set {variable} to another port; this one is {self.offset} above it"
            if self.offset
            else (f"Set {variable} to a free port")
        )


def stack_ports(settings: Settings, services: Sequence[str] = KINDS) -> list[Port]:
    """The ports of these kinds of services."""
    master = settings.spark_master_port
    numbers: dict[str, tuple[str, Sequence[int]]] = {
        "mongo_port": ("mongo", settings.mongo_ports),
        "kafka_port": ("kafka", settings.kafka_ports),
        "kafka_controller_port": ("kafka", settings.kafka_controller_ports),
        "spark_port": ("spark", [settings.spark_port]),
        # The master and its page, then as much for each worker.
        "spark_master_port": (
            "spark",
            range(master, master + 2 + 2 * settings.spark_workers) if settings.spark_workers else [],
        ),
        "webserver_port": ("webserver", [settings.webserver_port]),
    }
    return [
        Port(setting, number, service, number - ports[0])
        for setting, (service, ports) in numbers.items()
        if service in services
        for number in ports
    ]


def twin_of(port: Port, ports: Sequence[Port]) -> Port | None:
    """Another one of ours that wants the same number."""
    return next((other for other in ports if other.number == port.number and other != port), None)
