"""What the sensor does about the router, as a pure function of what it sees. Nothing here talks to a service."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from runtime.child_process import CHECKPOINT_HELD

HEARTBEAT_SECONDS = 20
"""A router that has written no heartbeat for so long is stuck; it writes one every 2 s."""

STALLED_SECONDS = 300
"""How long a router may stand still. It starts its own queries again after 15 to 60 s, with pauses of up to 30 s; what
that does not help in this time, a new process may."""

GONE_SECONDS = 5
"""How long a run may take to say why its router, which is no longer a process, has ended."""

START_SECONDS = 90
"""How long a run may take until its router runs."""

DRAIN_SECONDS = 30
"""How long a router that was asked to end may finish what it has begun, before it is killed."""

CANCEL_SECONDS = 2 * DRAIN_SECONDS
"""How long a run that is being stopped may take; after that its process is gone."""

ORPHAN_SECONDS = 10
"""How long a router may outlive its run without saying that it is stopping."""

SHORT_RUN_SECONDS = 60
FIRST_PAUSE_SECONDS = 10
LONGEST_PAUSE_SECONDS = 300

ACTIVE = ("NOT_STARTED", "QUEUED", "STARTING", "STARTED", "CANCELING")


@dataclass(frozen=True)
class Run:
    """A run of the routing job.

    Args:
        run_id: Dagster's id.
        status: the name of Dagster's status.
        created_at: when it was asked for.
        changed_at: when its status last changed.
        started_at: when its process began to work; None: it has not.
        ended_at: when it ended; None: it is active.
        reason: why it failed, in one line.
        exit_code: the router's, where it is known.
    """

    run_id: str
    status: str
    created_at: datetime
    changed_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    reason: str = ""
    exit_code: int | None = None

    @property
    def name(self) -> str:
        """As the UI shows it."""
        return f"run {self.run_id[:8]}"

    @property
    def seconds(self) -> float:
        """How long an ended run lasted."""
        return ((self.ended_at or self.changed_at) - (self.started_at or self.created_at)).total_seconds()


@dataclass(frozen=True)
class RouterHeartbeat:
    """The router's last sign of life.

    Args:
        at: when.
        state: starting, running, stalled or stopping.
        host: the machine that it runs on.
        pid: its process there.
        run_id: the Dagster run that started it; None: somebody started it by hand.
        alive: is the process there? None: it is on another machine.
        started_at: when the router started.
        rows_per_second: messages that it reads.
        lag: messages that it has yet to read; None: not known.
        moved_at: when it last got on, or had nothing to do; None: not known.
        problem: what keeps it from getting on, in one line.
    """

    at: datetime
    state: str
    host: str
    pid: int
    run_id: str | None
    alive: bool | None
    started_at: datetime
    rows_per_second: float = 0.0
    lag: int | None = None
    moved_at: datetime | None = None
    problem: str | None = None

    @property
    def where(self) -> str:
        """Where to find it."""
        return f"pid {self.pid} on {self.host}"


@dataclass(frozen=True)
class Decision:
    """What to do in one tick, in this order.

    Args:
        say: why, in plain sentences.
        give_up: runs to mark as failed, each with its reason.
        cancel: runs to stop in an orderly way: there is another one.
        end_router: kill the process that the heartbeat names.
        start: ask for a new run.
    """

    say: str
    give_up: tuple[tuple[str, str], ...] = ()
    cancel: tuple[str, ...] = ()
    end_router: bool = False
    start: bool = False


def decide(runs: Sequence[Run], heartbeat: RouterHeartbeat | None, now: datetime) -> Decision:
    """Keep exactly one router alive.

    Args:
        runs: all active runs of the job, and its last ended ones.
        heartbeat: the router's last one.
        now: the time.
    """
    active = sorted((run for run in runs if run.status in ACTIVE), key=lambda run: run.created_at)
    ended = sorted((run for run in runs if run.status not in ACTIVE), key=lambda run: run.created_at, reverse=True)
    return _watch(active, heartbeat, now) if active else _begin(ended, heartbeat, now)


def _watch(active: Sequence[Run], heartbeat: RouterHeartbeat | None, now: datetime) -> Decision:
    reasons = {run.run_id: _stuck(run, heartbeat, now) for run in active}
    stuck = [run for run in active if reasons[run.run_id]]
    well = [run for run in active if not reasons[run.run_id] and run.status != "CANCELING"]
    stopping = [run for run in active if not reasons[run.run_id] and run.status == "CANCELING"]
    # The run whose router is at work beats an older one that is still on its way.
    kept = next((run for run in well if _owns(run, heartbeat)), well[0] if well else None)
    surplus = [run for run in well if run is not kept]

    lines = [f"Gave up {run.name}: {reasons[run.run_id]}." for run in stuck]
    lines += [f"Stops {run.name}: only one router may run, and {kept.name} is it." for run in surplus if kept]
    left = heartbeat is not None and heartbeat.alive is True and heartbeat.run_id in {run.run_id for run in stuck}
    by_hand = None
    if kept:
        lines.append(_state(kept, heartbeat, now))
    elif stopping:
        lines.append(f"{stopping[0].name.capitalize()} is being stopped; its router may drain for {DRAIN_SECONDS} s.")
    else:
        by_hand = _by_hand(heartbeat, now)
        lines.append(by_hand or "Starts a new one.")
    return Decision(
        say=" ".join(lines),
        give_up=tuple((run.run_id, reasons[run.run_id]) for run in stuck),
        cancel=tuple(run.run_id for run in surplus),
        end_router=left,
        start=not (kept or stopping or by_hand),
    )


def _stuck(run: Run, heartbeat: RouterHeartbeat | None, now: datetime) -> str:
    """Why the run will not come to anything any more; empty when it may."""
    if run.status == "QUEUED":
        return ""
    if run.status == "CANCELING":
        late = _age(run.changed_at, now) > CANCEL_SECONDS
        return f"it was asked to stop more than {CANCEL_SECONDS} s ago and has not ended" if late else ""
    if run.status != "STARTED":
        late = _age(run.changed_at, now) > START_SECONDS
        return f"Dagster has not started its process within {START_SECONDS} s" if late else ""
    if heartbeat and _owns(run, heartbeat):
        silent = _age(heartbeat.at, now)
        if heartbeat.alive is False and silent > GONE_SECONDS:
            return f"its router (pid {heartbeat.pid}) is gone"
        if silent <= HEARTBEAT_SECONDS:
            still = _still(heartbeat, now)
            return f"its router ({heartbeat.where}) {_stands_still(heartbeat, now)}" if still > STALLED_SECONDS else ""
        if heartbeat.state != "starting":
            return f"its router ({heartbeat.where}) is stuck: no heartbeat for {silent:.0f} s"
    late = _age(run.started_at or run.changed_at, now) > START_SECONDS
    return f"its router has not come up within {START_SECONDS} s" if late else ""


def _state(run: Run, heartbeat: RouterHeartbeat | None, now: datetime) -> str:
    name = run.name.capitalize()
    if run.status == "QUEUED":
        return f"{name} has been waiting in Dagster's queue for {_age(run.changed_at, now):.0f} s."
    if heartbeat and _owns(run, heartbeat) and heartbeat.state == "running":
        lag = "unknown" if heartbeat.lag is None else f"{heartbeat.lag:,} messages"
        rate = f"{heartbeat.rows_per_second:,.0f} readings/s, lag {lag}"
        return f"{name} is routing: {rate}, heartbeat {_age(heartbeat.at, now):.0f} s ago."
    if heartbeat and _owns(run, heartbeat) and heartbeat.state == "stalled":
        return f"The router of {run.name} {_stands_still(heartbeat, now)}. It starts its queries again by itself."
    what = "stopping" if heartbeat and _owns(run, heartbeat) and heartbeat.state == "stopping" else "starting"
    return f"The router of {run.name} is {what}."


def _begin(ended: Sequence[Run], heartbeat: RouterHeartbeat | None, now: datetime) -> Decision:
    """Nothing is active: start a router, unless there is a reason to wait."""
    if by_hand := _by_hand(heartbeat, now):
        return Decision(by_hand)
    left = False
    if heartbeat and heartbeat.run_id and heartbeat.alive is not False:
        if patience := _outlives(heartbeat, ended, now):
            return Decision(patience)
        left = heartbeat.alive is True
    wait, why = _pause(ended, now)
    killed = f"Kills the router that run {(heartbeat.run_id or '')[:8]} left behind. " if left and heartbeat else ""
    then = f" Tries again in {wait:.0f} s." if wait > 0 else ""
    return Decision(f"{killed}{why}{then}", end_router=left, start=wait <= 0)


def _by_hand(heartbeat: RouterHeartbeat | None, now: datetime) -> str:
    """The sentence about a router that Dagster has not started; empty when there is none."""
    if heartbeat is None or heartbeat.run_id or heartbeat.alive is False:
        return ""
    silent = _age(heartbeat.at, now)
    if silent <= HEARTBEAT_SECONDS and heartbeat.state == "stalled":
        return f"A router that was started by hand ({heartbeat.where}) {_stands_still(heartbeat, now)}."
    if silent <= HEARTBEAT_SECONDS:
        end = "is stopping" if heartbeat.state == "stopping" else "routes; stop it to let Dagster take over"
        return f"A router that was started by hand ({heartbeat.where}) {end}."
    if heartbeat.alive:
        return (
            f"A router that was started by hand ({heartbeat.where}) has given no sign of life for {silent:.0f} s and "
            f"holds the checkpoint. End it: kill -9 {heartbeat.pid}"
        )
    return ""


def _outlives(heartbeat: RouterHeartbeat, ended: Sequence[Run], now: datetime) -> str:
    """Why to wait for the router of a run that has ended; empty when there is no more reason to."""
    owner = f"the router of run {(heartbeat.run_id or '')[:8]}, which has ended,"
    ends = [run.ended_at for run in ended if run.run_id == heartbeat.run_id and run.ended_at]
    patience = DRAIN_SECONDS if heartbeat.state == "stopping" else ORPHAN_SECONDS
    fresh = _age(heartbeat.at, now) <= HEARTBEAT_SECONDS
    if fresh and ends and _age(ends[0], now) <= patience:
        return f"Waits for {owner} to end ({heartbeat.where})."
    if fresh and heartbeat.alive is None:
        return f"Here is nothing to do: {owner} still runs as {heartbeat.where}. Stop it there."
    return ""


def _pause(ended: Sequence[Run], now: datetime) -> tuple[float, str]:
    """Seconds to wait before the next start, and why it is due."""
    if not ended:
        return 0, "Starts the first router."
    last = ended[0]
    since = _age(last.ended_at or last.changed_at, now)
    if last.status == "CANCELED":
        goes_on = "routing goes on while this sensor is on. Turning the sensor off pauses it"
        return 0, f"{last.name.capitalize()} was stopped by hand; {goes_on}."
    why = f"{last.name.capitalize()} ended: {last.reason or 'it does not say why'}."
    if last.exit_code == CHECKPOINT_HELD:
        # Nothing is wrong with ours, and the other one may end any time: no growing pauses.
        return FIRST_PAUSE_SECONDS - since, f"Another router holds the checkpoint. {why}"
    failures = 0
    for run in ended:
        if run.status == "CANCELED" or run.seconds >= SHORT_RUN_SECONDS:
            break
        failures += run.exit_code != CHECKPOINT_HELD
    if failures < 2:
        return 0, f"{why} Starts it again."
    pause = min(FIRST_PAUSE_SECONDS * 2 ** (failures - 2), LONGEST_PAUSE_SECONDS)
    return pause - since, f"The router failed {failures} times in a row. {why}"


def _still(heartbeat: RouterHeartbeat, now: datetime) -> float:
    """How many seconds a router that calls itself stalled has stood still; 0 for any other."""
    return _age(heartbeat.moved_at, now) if heartbeat.state == "stalled" and heartbeat.moved_at else 0.0


def _stands_still(heartbeat: RouterHeartbeat, now: datetime) -> str:
    waiting = "an unknown number of" if heartbeat.lag is None else f"{heartbeat.lag:,}"
    why = f": {heartbeat.problem}" if heartbeat.problem else ""
    return f"has stood still for {_still(heartbeat, now):.0f} s with {waiting} readings waiting{why}"


def _owns(run: Run, heartbeat: RouterHeartbeat | None) -> bool:
    return heartbeat is not None and heartbeat.run_id == run.run_id


def _age(moment: datetime, now: datetime) -> float:
    return (now - moment).total_seconds()
