"""Dagster's processes under `meters dev` killed and stopped: daemon, webserver, code server, run workers."""

import json
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import psutil

from fault_injection.case import Case
from fault_injection.ending import finish_days, recover_routing, stop_processes
from fault_injection.inject import failpoint, pause_process, signal_service
from fault_injection.load import FIRST_DAY
from fault_injection.processes import Process
from fault_injection.row import Broken, Group, Row, row
from fault_injection.rows.ingest import LONGER_THAN_SESSION, LONGER_THAN_TRANSACTION
from metering.settings import LOOPBACK

START_SECONDS = 120
BACK_SECONDS = 120
GONE_SECONDS = 60
DAY_SECONDS = 300
HOUSEHOLDS = 5
DAY = FIRST_DAY

PARTS = {
    "daemon": ("dagster._daemon", "dagster-daemon"),
    "webserver": ("dagster_webserver", "dagster-webserver"),
    "code-server": ("code-server start",),
}
"""What stands in the command line of each process."""

LAUNCH = """mutation($job: String!, $day: String!) {
  launchRun(executionParams: {
    selector: {repositoryLocationName: "meter_assets", repositoryName: "__repository__", jobName: $job},
    runConfigData: {},
    executionMetadata: {tags: [{key: "dagster/partition", value: $day}]}
  }) { __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } }
}"""
STATUS = "query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }"


def ask(case: Case, query: str, **variables: Any) -> dict[str, Any]:
    """Ask the webserver as its UI does; empty while it does not answer."""
    request = urllib.request.Request(  # noqa: S310 - loopback
        f"http://{LOOPBACK}:{case.settings.webserver_port}/graphql",
        data=json.dumps({"query": query, "variables": variables}).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as response:  # noqa: S310
            return json.load(response).get("data") or {}
    except (OSError, ValueError):
        return {}


def _dev(case: Case, *, router: bool = False) -> Process:
    """`meters dev` with the code location loaded and the daemon alive."""
    settings = case.settings.model_copy(update={"router_sensor": router, "router_batch_seconds": 30})
    dev = case.meters("dev", settings=settings)
    case.wait(lambda: _is_up(case, dev), START_SECONDS, "`meters dev` is up")
    return dev


def _is_up(case: Case, dev: Process) -> bool:
    if not dev.is_alive:
        raise Broken(f"`meters dev` ended, exit code {dev.exit_code}: {dev.last_line}")
    query = """{ workspaceOrError { ... on Workspace { locationEntries { loadStatus } } }
        instance { daemonHealth { allDaemonStatuses { healthy required } } } }"""
    answer = ask(case, query)
    entries = (answer.get("workspaceOrError") or {}).get("locationEntries") or []
    health = ((answer.get("instance") or {}).get("daemonHealth") or {}).get("allDaemonStatuses") or []
    loaded = bool(entries) and all(entry["loadStatus"] == "LOADED" for entry in entries)
    return loaded and bool(health) and all(each["healthy"] for each in health if each["required"])


def _part(dev: Process, part: str) -> psutil.Process:
    for process in dev.family()[1:]:
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if any(sign in line for sign in PARTS[part]):
            return process
    raise Broken(f"`meters dev` has no process of its {part}")


def _stored(case: Case) -> None:
    case.load(days=2, rate=None, households=HOUSEHOLDS).finish()
    done = case.run("ingest", "--until-caught-up")
    case.promise(done.exit_code == 0, f"ingest failed: {done.last_line}")


def _launch(case: Case) -> str:
    """Have the day computed by the daemon, as soon as the code location answers; the run's id."""

    def launched() -> str:
        answer = ask(case, LAUNCH, job="daily_readings_job", day=str(DAY)).get("launchRun") or {}
        return answer["run"]["runId"] if "run" in answer else ""

    return case.wait(launched, BACK_SECONDS, "a run can be launched")


def _wait_run(case: Case, run_id: str) -> str:
    ended = ("SUCCESS", "FAILURE", "CANCELED")

    def status() -> str:
        found = (ask(case, STATUS, id=run_id).get("runOrError") or {}).get("status", "")
        return found if found in ended else ""

    return case.wait(status, DAY_SECONDS, "the run ends")


def part_killed(case: Case, *, part: str) -> None:
    """One of the processes killed: it is back by itself, or `meters dev` ends with an error; a day is computed then."""
    _stored(case)
    dev = _dev(case)
    old = _part(dev, part)
    old.kill()
    began = time.monotonic()
    case.wait(lambda: not dev.is_alive or _replaced(dev, part, old.pid), BACK_SECONDS, f"the {part} is back")
    if not dev.is_alive:
        case.promise(dev.exit_code, f"`meters dev` ended with exit code 0 when its {part} was killed")
        dev.may_fail = True
        dev = _dev(case)
    case.wait(lambda: _is_up(case, dev), BACK_SECONDS, "the UI answers and the daemon is healthy")
    case.recovered(time.monotonic() - began)
    case.promise(_wait_run(case, _launch(case)) == "SUCCESS", "the day's run fails")
    finish_days(case, DAY)


def _replaced(dev: Process, part: str, old: int) -> bool:
    try:
        return _part(dev, part).pid != old
    except Broken:
        return False


def daemon_paused(case: Case) -> None:
    """The daemon stopped for 26 s with a run in its queue."""
    _stored(case)
    dev = _dev(case)
    daemon = _part(dev, "daemon")
    daemon.suspend()
    run_id = _launch(case)
    pause_process(daemon, 26)
    began = time.monotonic()
    case.promise(_wait_run(case, run_id) == "SUCCESS", "the run of the paused daemon's queue fails")
    case.recovered(time.monotonic() - began)
    finish_days(case, DAY)


def parts_paused(case: Case, *, parts: Sequence[str], seconds: float) -> None:
    """Processes stopped and continued one by one: the UI answers again, and a day is computed."""
    _stored(case)
    dev = _dev(case)
    for part in parts:
        pause_process(_part(dev, part), seconds)
    began = time.monotonic()
    case.wait(lambda: _is_up(case, dev), BACK_SECONDS, "the UI answers and the daemon is healthy")
    case.recovered(time.monotonic() - began)
    case.promise(_wait_run(case, _launch(case)) == "SUCCESS", "the day's run fails")
    finish_days(case, DAY)


def run_worker_paused(case: Case, *, seconds: float) -> None:
    """The worker of a day's run stopped while it publishes, for longer than MongoDB keeps its transaction."""
    _stored(case)
    dev = _dev(case)
    namespace = f"{case.database.name}.daily_averages"
    how = {"blockConnection": True, "blockTimeMS": 2_000, "namespace": namespace}
    with failpoint(case.settings, {"times": 1}, failCommands=["insert", "update"], **how) as entered:
        run_id = _launch(case)
        entered(1, 120)
        pause_process(_worker(dev, run_id), seconds)
    began = time.monotonic()
    case.wait(lambda: _is_published(case), DAY_SECONDS, "the day is published by the run, or by the daemon itself")
    case.recovered(time.monotonic() - began)
    finish_days(case, DAY)


def run_worker_killed(case: Case, *, collection: str) -> None:
    """The worker of a day's run killed between two figures: the day is finished without anybody's help."""
    _stored(case)
    dev = _dev(case)
    namespace = f"{case.database.name}.{collection}"
    how = {"blockConnection": True, "blockTimeMS": 60_000, "namespace": namespace}
    with failpoint(case.settings, {"times": 1}, failCommands=["insert", "update"], **how) as entered:
        run_id = _launch(case)
        entered(1, 120)
        _worker(dev, run_id).kill()
    began = time.monotonic()
    case.wait(lambda: _is_published(case), DAY_SECONDS, "the day is finished by the daemon itself")
    case.recovered(time.monotonic() - began)
    finish_days(case, DAY)


def _worker(dev: Process, run_id: str) -> psutil.Process:
    """The process that executes the run: the deepest one that names it, or else the youngest of the code server's."""
    found = [each for each in dev.family()[1:] if run_id in " ".join(each.cmdline())]
    workers = found or [each for each in dev.family()[1:] if "spawn_main" in " ".join(each.cmdline())]
    if not workers:
        raise Broken("no process executes the run")
    return max(workers, key=lambda each: each.create_time())


def _is_published(case: Case) -> bool:
    names = ("daily_averages", "daily_consumption")
    found = (case.database[name].find_one({"calculation_date": str(DAY)}) for name in names)
    day = case.database["local_days"].find_one({"_id": str(DAY)}) or {}
    return all(each is not None for each in found) and not day.get("publishing")


def ended_with_run_hanging(case: Case) -> None:
    """SIGTERM to `meters dev` while a run hangs on a Spark that does not answer: no process is left."""
    _stored(case)
    dev = _dev(case)
    signal_service(case.stack, "spark", signal.SIGSTOP)
    try:
        run_id = _launch(case)
        running = lambda: (ask(case, STATUS, id=run_id).get("runOrError") or {}).get("status") == "STARTED"  # noqa: E731
        case.wait(running, START_SECONDS, "the run has started")
        family = dev.family()
        dev.may_fail = True
        dev.send(signal.SIGTERM)
        _, left = psutil.wait_procs(family, timeout=GONE_SECONDS)
        names = ", ".join(" ".join(each.cmdline())[:60] for each in left)
        case.promise(not left, f"{len(left)} processes are left {GONE_SECONDS} s after SIGTERM: {names}")
        for process in left:
            process.kill()
    finally:
        signal_service(case.stack, "spark", signal.SIGCONT)


def dev_killed(case: Case) -> None:
    """`meters dev` itself killed: no process is left, and the next one computes the day."""
    _stored(case)
    dev = _dev(case)
    family = dev.family()
    family[0].kill()
    dev.killed = True
    _, left = psutil.wait_procs(family, timeout=GONE_SECONDS)
    case.promise(not left, f"{len(left)} processes are left {GONE_SECONDS} s after SIGKILL")
    for process in left:
        process.kill()
    began = time.monotonic()
    _dev(case)
    case.recovered(time.monotonic() - began)
    case.promise(_wait_run(case, _launch(case)) == "SUCCESS", "the day's run fails")
    finish_days(case, DAY)


def router_of_sensor(case: Case, *, deed: str) -> None:
    """The router that the sensor keeps: killed, stopped, or its run's worker killed."""
    case.load(days=1, rate=None, fault_rate=0.05).finish()
    _dev(case, router=True)
    beat = case.wait(lambda: _routing(case, 0), 180, "the sensor's router runs") or {}
    case.load(first_day=case.next_day(), rate=300, fault_rate=0.05)
    case.wait_routed()
    router = psutil.Process(beat["pid"])
    if deed == "kill":
        router.kill()
    elif deed == "stop":
        router.suspend()
    else:
        (router.parent() or router).kill()
    began = time.monotonic()
    case.wait(lambda: _routing(case, router.pid), 240, "the sensor has another router running")
    seconds = time.monotonic() - began
    recover_routing(case, supervised=True)
    case.recovered(seconds, case.outcome.caught_up_seconds and seconds + case.outcome.caught_up_seconds)
    stop_processes(case)


def _routing(case: Case, but: int) -> dict[str, Any] | None:
    beat = case.database["heartbeats"].find_one({"_id": "router", "state": "running"})
    return beat if beat and beat["pid"] != but and time.time() - beat["at"].timestamp() < 10 else None


BACK = "It is back by itself, or `meters dev` ends with an error; days are computed as before."
CONTINUED = "It answers again, and a day is computed."
FINISHED = "The daemon finishes the day by itself within minutes; all figures are right."


def _row(process: str, name: str, fault: str, promise: str, run: Callable[[Case], None]) -> Row:
    return row(process, name, fault, promise, run, group=Group.DAGSTER)


ROWS: tuple[Row, ...] = (
    *(
        _row(part.replace("-", " "), "kill", "SIGKILL under `meters dev`", BACK, partial(part_killed, part=part))
        for part in PARTS
    ),
    _row("daemon", "pause", "SIGSTOP for 26 s with a run in its queue", "The run succeeds.", daemon_paused),
    _row(
        *("webserver and code server", "pause", f"SIGSTOP for {LONGER_THAN_SESSION} s, one by one", CONTINUED),
        partial(parts_paused, parts=("webserver", "code-server"), seconds=LONGER_THAN_SESSION),
    ),
    _row(
        *("run worker", "pause", f"SIGSTOP for {LONGER_THAN_TRANSACTION} s while it publishes", FINISHED),
        partial(run_worker_paused, seconds=LONGER_THAN_TRANSACTION),
    ),
    *(
        _row(
            *("run worker", f"kill-{name}", f"SIGKILL while it publishes {collection}", FINISHED),
            partial(run_worker_killed, collection=collection),
        )
        for name, collection in (("averages", "daily_averages"), ("consumption", "daily_consumption"))
    ),
    _row("dev", "term-hanging", "SIGTERM with a run hanging on Spark", "No process is left.", ended_with_run_hanging),
    _row("dev", "kill", "SIGKILL of `meters dev`", "No process is left; the next one goes on.", dev_killed),
    *(
        _row(
            *("router under Dagster", deed, fault, "The sensor has another one routing; every fault is routed."),
            partial(router_of_sensor, deed=deed),
        )
        for deed, fault in (
            ("kill", "SIGKILL"),
            ("stop", "SIGSTOP for good"),
            ("worker", "SIGKILL of its run's worker"),
        )
    ),
)
