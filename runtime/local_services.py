"""The local stack's state file, as those read it who do not run the stack: which of its services fail, and why.

The stack itself and everything else about the file is in local_stack/state.py.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metering.settings import Settings

STATE_FILE = "stack.json"

STARTING, RESTARTING, FAILED = "starting", "restarting", "failed"


@dataclass(frozen=True)
class ServiceTrouble:
    """A service of the local stack that crashed.

    Args:
        name: like kafka or mongo-2.
        title: like Kafka.
        state: restarting; failed, when it crashed again and again; or starting, for one of these that is being tried.
        error: why, in one line.
        log: its log file.
        failed_at: since when it counts as failed, or last did so (ISO 8601); "" if it never did.
        failed_reason: why it failed then.
        recovered_at: when it was usable again; "" while it is not.
        next_try_at: when it is started again; "" while that is being done.
    """

    name: str
    title: str
    state: str
    error: str
    log: str
    failed_at: str
    failed_reason: str
    recovered_at: str
    next_try_at: str
    crashes: str = "0"

    @property
    def sentence(self) -> str:
        """Like `The local stack's Kafka fails (…); it is tried again at …`."""
        state = "fails" if self.failed_at and not self.recovered_at else "has crashed and is being started again"
        reason = f": {self.error.rstrip('.')}" if self.error else ""
        when = f"; next try at {self.next_try_at[11:19]} UTC" if self.next_try_at and self.state != STARTING else ""
        return f"The local stack's {self.title} {state}{reason}{when}"


def state_file(home: Path) -> Path:
    """Where the state of a home's stack stands."""
    return home / STATE_FILE


def troubles(settings: Settings, kind: str = "") -> list[ServiceTrouble]:
    """The services that have crashed and are not usable, of one kind or of all; none where no local stack runs."""
    return [
        each
        for each in _services(settings)
        if each.name.startswith(kind) and each.crashes not in ("", "0") and each.state in (STARTING, RESTARTING, FAILED)
    ]


def failures(settings: Settings) -> list[ServiceTrouble]:
    """The services that fail, or did so before they recovered."""
    return [each for each in _services(settings) if each.failed_at]


def trouble_note(settings: Settings, kind: str) -> str:
    """Why the local stack's services of this kind do not answer; "" where the stack does not know."""
    found = troubles(settings, kind)
    return f"{found[0].sentence}. Read {found[0].log}" if found else ""


def _services(settings: Settings) -> list[ServiceTrouble]:
    try:
        state: dict[str, Any] = json.loads(state_file(settings.home).read_text())
        if not _runs(state):
            return []
        return [
            ServiceTrouble(
                name=name,
                **{key: str(each.get(key) or "") for key in ServiceTrouble.__dataclass_fields__ if key != "name"},
            )
            for name, each in state["services"].items()
        ]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return []


def _runs(state: dict[str, Any]) -> bool:
    import psutil

    try:
        return abs(psutil.Process(int(state["pid"])).create_time() - float(state["create_time"])) < 1
    except psutil.Error:
        return False
