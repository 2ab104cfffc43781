"""A process that computes scattered days again, as the sensor has it done: `python -m benchmarks.late_process DAY…`."""

import json
import os
import sys
import time
import warnings

from local_stack.dagster import dagster_environment
from metering.settings import load_settings


def main() -> None:
    """Print the seconds of the run as JSON."""
    os.environ.update(dagster_environment(load_settings()))
    import dagster as dg

    warnings.filterwarnings("ignore", category=UserWarning, module="dagster")
    from meter_assets.definitions import defs

    config = {
        "ops": {"recompute_days": {"config": {"days": sys.argv[1:]}}},
        "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
    }
    started = time.monotonic()
    with dg.DagsterInstance.get() as instance:
        defs.resolve_job_def("late_readings_job").execute_in_process(instance=instance, run_config=config)
    print(json.dumps({"run": time.monotonic() - started}))


if __name__ == "__main__":
    main()
