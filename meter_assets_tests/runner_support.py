"""A process that does a test's runs of late_readings_job one after another: what is slow to begin, begins once."""

import json
import subprocess
import sys
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from local_stack.dagster import dagster_environment
from meter_assets_tests.days_support import Installation

RETRY_SECONDS = 0.5
"""Pause before a step's first try again: a failure of these tests is over by then."""

_SCRIPT = """
import json, sys
import dagster as dg
from meter_assets.days import stores
from meter_assets.definitions import defs
from meter_assets.failures import failure_line

stores.FIRST_RETRY_SECONDS = float(sys.argv[1])
answers = sys.stdout
sys.stdout = sys.stderr
print("ready", file=answers, flush=True)
for line in sys.stdin:
    config = {**json.loads(line), "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    with dg.DagsterInstance.get() as instance:
        job = defs.resolve_job_def("late_readings_job")
        result = job.execute_in_process(instance=instance, run_config=config, raise_on_error=False)
    events = result.all_events
    checks = result.get_asset_check_evaluations()
    answer = {
        "success": result.success,
        "run_id": result.run_id,
        "retries": sum(event.is_step_up_for_retry for event in events),
        "failure": next((failure_line(event.step_failure_data) for event in events if event.is_step_failure), None),
        "up_to_date": [[check.passed, check.description] for check in checks if check.check_name == "up_to_date"],
    }
    print(json.dumps(answer), file=answers, flush=True)
"""


class Runner:
    """The process; begin the next run only after the answer to the last one."""

    def __init__(self, city: Installation, *, retry_seconds: float = RETRY_SECONDS) -> None:
        environment = {**city.environment, **dagster_environment(city.settings)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SCRIPT, str(retry_seconds)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __enter__(self) -> Self:
        """Wait until it can begin a run."""
        assert self._line() == "ready"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self.process.kill()
        self.process.communicate()

    def begin(self, run_config: Any) -> None:
        """Begin a run."""
        assert self.process.stdin
        self.process.stdin.write(json.dumps(run_config) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """Wait for the run: success, run_id, retries, failure, up_to_date."""
        return json.loads(self._line())

    def compute(self, *days: str) -> dict[str, Any]:
        """A run over those days."""
        self.begin(config_of(days))
        return self.answer()

    def _line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()


def config_of(days: Iterable[str]) -> dict[str, Any]:
    """Run configuration for those days."""
    return {"ops": {"recompute_days": {"config": {"days": [*days]}}}}
