"""A process that materializes some assets of a day: `python -m benchmarks.day_process DAY ASSET…`.

What `meters backfill DAY` does, restricted to these assets; like each run of the Dagster daemon, a new process.
"""

import json
import os
import sys
import time
import warnings

from local_stack.dagster import dagster_environment
from metering.settings import load_settings


def main() -> None:
    """Print the seconds of the run and of each step as JSON."""
    day, *assets = sys.argv[1:]
    os.environ.update(dagster_environment(load_settings()))
    import dagster as dg

    warnings.filterwarnings("ignore", category=UserWarning, module="dagster")
    from meter_assets.definitions import defs

    started = time.monotonic()
    with dg.DagsterInstance.get() as instance:
        result = defs.resolve_job_def("daily_readings_job").execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey(asset) for asset in assets],
            tags={"dagster/asset_partition_range_start": day, "dagster/asset_partition_range_end": day},
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )
    steps = {
        event.step_key: event.step_success_data.duration_ms / 1000
        for event in result.all_events
        if event.is_step_success and event.step_key
    }
    print(json.dumps({"run": time.monotonic() - started, "steps": steps}))


if __name__ == "__main__":
    main()
