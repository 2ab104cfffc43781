"""A process that materializes some assets of days: `python -m benchmarks.day_process FIRST LAST ASSET…`.

What `meters backfill FIRST LAST` does, restricted to these assets; like each run of the Dagster daemon, a new process.
"""

import json
import os
import resource
import sys
import time
import warnings

from local_stack.dagster import dagster_environment
from metering.settings import load_settings


def main() -> None:
    """Print the seconds of the run and of its step, and this process's peak memory in MB, as JSON."""
    first, last, *assets = sys.argv[1:]
    os.environ.update(dagster_environment(load_settings()))
    import dagster as dg

    warnings.filterwarnings("ignore", category=UserWarning, module="dagster")
    from meter_assets.definitions import defs

    started = time.monotonic()
    with dg.DagsterInstance.get() as instance:
        result = defs.resolve_job_def("daily_readings_job").execute_in_process(
            instance=instance,
            asset_selection=[dg.AssetKey(asset) for asset in assets],
            tags={"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last},
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )
    (step,) = [event.step_success_data.duration_ms / 1000 for event in result.all_events if event.is_step_success]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux counts KiB
    print(json.dumps({"run": time.monotonic() - started, "step": step, "peak_mb": peak}))


if __name__ == "__main__":
    main()
