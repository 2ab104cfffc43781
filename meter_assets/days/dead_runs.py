"""Runs whose process is gone: a `meters backfill` that was killed leaves a run that Dagster believes to be at work.

Such a run would hold its place in the queue for ever, and every later range would wait for it. The worker of a run that
the daemon launched is watched by its code server alone: killed together, they leave such a run, too.
"""

import dagster as dg

from metering.process_identity import is_gone, own_process

PROCESS_TAG = "meters/process"

UNFINISHED = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]


def note_process(instance: dg.DagsterInstance, run_id: str) -> None:
    """Note that this process does the run's work."""
    instance.add_run_tags(run_id, {PROCESS_TAG: own_process()})


def end_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Have runs of processes of this machine that are gone end as failed; returns their ids."""
    ended = []
    for run in instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)):
        process = run.tags.get(PROCESS_TAG)
        if process and is_gone(process):
            instance.report_run_failed(
                run, "The process of this run was killed; the days it had finished are published"
            )
            ended.append(run.run_id)
    return ended
