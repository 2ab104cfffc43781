"""The ledger of a simulation: exactly what was sent, to hold against what the platform says arrived.

Counts, sums and their file; nothing here sends or reads messages. A ledger speaks of one run: the same simulation run
twice sends the same identities again, which the platform rightly counts as duplicates while each ledger has them as
readings. `merge_ledgers` adds up runs that share no identity.

Sums are kept in integer thousandths, so they are exact; only the published figure is a float.
"""

import json
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from metering.errors import MetersError

LEDGERS_FOLDER = "ledgers"

_COUNTS = ("messages", "readings", "duplicates", "conflicts", "garbage", "late", "out_of_order")


@dataclass(slots=True)
class DeviceDay:
    """One meter's local day: readings without fault, faulty ones, usage of those without fault."""

    readings: int = 0
    faulty: int = 0
    usage_thousandths: int = 0
    longest_fault_run: int = 0
    _fault_run: int = 0

    def record(self, usage_thousandths: int, faulty: bool) -> None:
        """Enter the day's next reading in order of time."""
        if faulty:
            self.faulty += 1
            self._fault_run += 1
            self.longest_fault_run = max(self.longest_fault_run, self._fault_run)
        else:
            self.readings += 1
            self.usage_thousandths += usage_thousandths
            self._fault_run = 0

    def add(self, other: "DeviceDay") -> None:
        """Add another account of the same meter and day; a run across both is not seen."""
        self.readings += other.readings
        self.faulty += other.faulty
        self.usage_thousandths += other.usage_thousandths
        self.longest_fault_run = max(self.longest_fault_run, other.longest_fault_run)

    def to_json(self) -> dict[str, Any]:
        """The published form."""
        return {
            "readings": self.readings,
            "faulty": self.faulty,
            "usage": self.usage_thousandths / 1000,
            "longest_fault_run": self.longest_fault_run,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The account that `to_json` published."""
        return cls(value["readings"], value["faulty"], round(value["usage"] * 1000), value["longest_fault_run"])


Days = dict[str, dict[str, dict[str, DeviceDay]]]
"""Local day → meter type → device_id → account."""


@dataclass
class Ledger:
    """What one run has sent. Law: messages = readings + duplicates + conflicts + garbage.

    Attributes:
        run_id: name of the run and of its file.
        seed: the simulation's.
        options: what the run was asked for, to repeat it.
        complete: Kafka has acknowledged every message counted here.
        interrupted: it was stopped before its end; what it had made was still sent.
        messages: all that were sent.
        readings: different identities among them.
        duplicates: messages whose very bytes had been sent before.
        conflicts: messages with the identity of a reading sent before, and another payload.
        garbage: messages that are no reading.
        late: readings sent after one of their meter that is more than one step newer.
        out_of_order: readings sent after one of their meter that is one step newer.
        fault_ids: `_id` of every faulty reading, in order of time.
        days: accounts by local day, meter type and meter.
    """

    run_id: str
    seed: int
    options: dict[str, Any] = field(default_factory=dict)
    complete: bool = False
    interrupted: bool = False
    messages: int = 0
    readings: int = 0
    duplicates: int = 0
    conflicts: int = 0
    garbage: int = 0
    late: int = 0
    out_of_order: int = 0
    fault_ids: list[str] = field(default_factory=list)
    days: Days = field(default_factory=dict)

    @classmethod
    def begin(cls, seed: int, options: dict[str, Any]) -> Self:
        """An empty ledger under a new run id, which begins with the time and so sorts by it."""
        now = datetime.now(UTC)
        return cls(run_id=f"{now:%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}", seed=seed, options=options)

    @property
    def faults(self) -> int:
        """Number of faulty readings."""
        return len(self.fault_ids)

    @property
    def balanced(self) -> bool:
        """Whether the law holds."""
        return self.messages == self.readings + self.duplicates + self.conflicts + self.garbage

    def account(self, day: str, meter_type: str, device_id: str) -> DeviceDay:
        """The account of a meter's day, opened when it is new."""
        return self.days.setdefault(day, {}).setdefault(str(meter_type), {}).setdefault(device_id, DeviceDay())

    def totals(self, day: str, meter_type: str) -> dict[str, Any]:
        """`readings`, `faulty` and `usage` of all meters of a type on a day."""
        return _totals(self.days.get(day, {}).get(str(meter_type), {}).values())

    def summary(self) -> dict[str, Any]:
        """The ledger without its single meters and fault ids."""
        return {
            "run_id": self.run_id,
            "seed": self.seed,
            "complete": self.complete,
            "interrupted": self.interrupted,
            "options": self.options,
            **{name: getattr(self, name) for name in _COUNTS},
            "faults": self.faults,
            "days": {
                day: {kind: self.totals(day, kind) for kind in sorted(self.days[day])} for day in sorted(self.days)
            },
        }

    def to_json(self) -> dict[str, Any]:
        """The whole ledger as its file holds it."""
        whole = self.summary()
        for day, kinds in whole["days"].items():
            for kind, totals in kinds.items():
                totals["devices"] = {device: account.to_json() for device, account in self.days[day][kind].items()}
        return {**whole, "fault_ids": self.fault_ids}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """The ledger that `to_json` published."""
        return cls(
            run_id=value["run_id"],
            seed=value["seed"],
            options=value["options"],
            complete=value["complete"],
            interrupted=value["interrupted"],
            fault_ids=value["fault_ids"],
            days={
                day: {
                    kind: {device: DeviceDay.from_json(account) for device, account in totals["devices"].items()}
                    for kind, totals in kinds.items()
                }
                for day, kinds in value["days"].items()
            },
            **{name: value[name] for name in _COUNTS},
        )

    def path(self, home: Path) -> Path:
        """Where the ledger lives under an installation's home."""
        return home / LEDGERS_FOLDER / f"{self.run_id}.json"

    def save(self, home: Path) -> Path:
        """Write the ledger to its file, all of it or nothing."""
        path = self.path(home)
        path.parent.mkdir(parents=True, exist_ok=True)
        half = path.with_suffix(".json.part")
        with half.open("w", encoding="utf-8") as file:
            json.dump(self.to_json(), file)
            file.flush()
            os.fsync(file.fileno())
        half.replace(path)
        return path


def _totals(accounts: Iterable[DeviceDay]) -> dict[str, Any]:
    total = DeviceDay()
    for account in accounts:
        total.add(account)
    return {"readings": total.readings, "faulty": total.faulty, "usage": total.usage_thousandths / 1000}


def load_ledger(path: Path) -> Ledger:
    """Read one ledger.

    Raises:
        MetersError: the file is missing or is no ledger.
    """
    try:
        return Ledger.from_json(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise MetersError(f"There is no ledger {path}", fix="Make one with `meters simulate`") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MetersError(f"{path} is no ledger of `meters simulate`: {error!r}") from None


def load_ledgers(home: Path) -> list[Ledger]:
    """All ledgers of an installation, oldest run first."""
    return [load_ledger(path) for path in sorted((home / LEDGERS_FOLDER).glob("*.json"))]


def merge_ledgers(ledgers: Iterable[Ledger]) -> Ledger:
    """The sum of runs that share no identity; see the module's text for what happens when they do.

    Raises:
        MetersError: there is none.
    """
    parts = list(ledgers)
    if not parts:
        raise MetersError("There is no ledger to add up", fix="Make one with `meters simulate`")
    merged = Ledger(
        run_id="+".join(part.run_id for part in parts),
        seed=parts[0].seed,
        options={"runs": {part.run_id: part.options for part in parts}},
        complete=all(part.complete for part in parts),
        interrupted=any(part.interrupted for part in parts),
    )
    for part in parts:
        for name in _COUNTS:
            setattr(merged, name, getattr(merged, name) + getattr(part, name))
        merged.fault_ids.extend(part.fault_ids)
        for day, kinds in part.days.items():
            for kind, devices in kinds.items():
                for device, account in devices.items():
                    merged.account(day, kind, device).add(account)
    return merged
