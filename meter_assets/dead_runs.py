"""Runs whose process is gone: a `meters backfill` that was killed leaves a run that Dagster believes to be at work.

Such a run would hold its place in the queue for ever, and every later range would wait for it. Runs that the daemon
launches have a worker that Dagster looks after itself.
"""

import os
import socket

import dagster as dg
import psutil

PROCESS_TAG = "meters/process"

UNFINISHED = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]


def own_process() -> str:
    """Value of PROCESS_TAG for a run in this process: host, process id, and when it started."""
    return f"{socket.gethostname()} {os.getpid()} {psutil.Process().create_time():.2f}"


def end_dead_runs(instance: dg.DagsterInstance) -> list[str]:
    """Have runs of processes of this machine that are gone end as failed; returns their ids."""
    ended = []
    for run in instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)):
        process = run.tags.get(PROCESS_TAG)
        if process and _is_gone(process):
            instance.report_run_failed(run, "The process of this run was killed; the days it had finished are in force")
            ended.append(run.run_id)
    return ended


def _is_gone(process: str) -> bool:
    host, _, rest = process.partition(" ")
    pid, _, created = rest.partition(" ")
    if host != socket.gethostname() or not (pid.isascii() and pid.isdigit()):
        return False  # another machine's, or a tag that was written by hand
    try:
        return f"{psutil.Process(int(pid)).create_time():.2f}" != created
    except psutil.NoSuchProcess:
        return True
