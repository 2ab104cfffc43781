"""How a row ends: the recovery is waited for and measured, everything is stopped, and everything is accounted for."""

import re
import signal
import time
from datetime import date

from fault_injection.account import account, in_short, lost_places, source_of, sources_of
from fault_injection.case import POLL_SECONDS, Case
from fault_injection.figures import wrong_figures
from fault_injection.oracle import expect
from fault_injection.processes import Process
from fault_injection.row import Broken, Outcome, Skip, State
from fault_injection.topics import INGEST_GROUP
from metering.settings import DEAD_LETTERS_TOPIC

RECOVER_SECONDS = 120
"""How long a recovery may take before it counts as none."""

ROUTER_RECOVER_SECONDS = 240
LOAD_GOES_ON_SECONDS = 1.0
SETTLED_SECONDS = 90
STOP_SECONDS = 60
START_SECONDS = 20
"""A process younger than this may not have come to its signal handlers yet."""


def run_row(case: Case) -> Outcome:
    """Break, recover, check; the outcome says how it went, also when the row itself came to no end."""
    started = time.monotonic()
    outcome, interrupted = case.outcome, False
    try:
        case.row.run(case)
    except Skip as skip:
        outcome.state, outcome.reason = State.SKIPPED, str(skip)
    except Broken as broken:
        outcome.wrong.append(str(broken))
    except Exception as error:  # whatever it is, the rows after this one are to run
        outcome.wrong.append(f"the row did not come to its end: {type(error).__name__}: {error}")
    except BaseException:  # Ctrl-C: the services go as well, nothing has to be put in order for another row
        interrupted = True
        raise
    finally:
        case.close(last=interrupted)
    outcome.seconds = round(time.monotonic() - started, 1)
    if outcome.wrong:
        outcome.state = State.BROKEN
    return outcome


def recover(case: Case, *, but: Process | None = None) -> None:
    """The fault is over: wait until ingest has caught up, stop everything but one process, and check the law."""
    case.fault_ends()
    _settle_ingest(case)
    stop_processes(case, but=but)
    check_law(case)


def recover_routing(case: Case, *, restart: str = "", supervised: bool = False) -> None:
    """The fault is over: wait until every fault is routed, store them, and check that no other one is there.

    Args:
        case: the row's.
        restart: pattern of the line that the router may end with; another one is started then, as the sensor would.
        supervised: does something else start routers? Then none is started here.
    """
    case.fault_ends()
    case.tolerate_end(restart)
    _settle_router(case, supervised=supervised)
    stop_processes(case)
    _check_routed(case)


def recover_everything(case: Case) -> None:
    """The same for ingest and router together."""
    case.fault_ends()
    _settle_ingest(case)
    caught_up = case.outcome.caught_up_seconds
    _settle_router(case)
    case.outcome.caught_up_seconds = max(caught_up or 0, case.outcome.caught_up_seconds or 0)
    stop_processes(case)
    check_law(case)
    _check_routed(case)


def finish_days(case: Case, *days: date) -> None:
    """The end of a row about days: the law, and every figure."""
    case.stop_loads()
    case.history.keep()
    stop_processes(case)
    check_law(case)
    check_days(case, *days)


def check_days(case: Case, *days: date) -> None:
    """Hold the published figures of days against sums over the messages."""
    compared, wrong = wrong_figures(case.database, list(case.history.sent()), days)
    case.outcome.figures = compared
    case.outcome.wrong_figures = len(wrong)
    case.outcome.wrong += in_short(wrong)


def _settle_ingest(case: Case) -> None:
    goes_on_until = case.fault_ended + LOAD_GOES_ON_SECONDS
    deadline = case.fault_ended + RECOVER_SECONDS
    outcome, goal = case.outcome, {}
    while True:
        now = case.topics.committed(INGEST_GROUP)
        if now is not None and outcome.progress_seconds is None and _is_progress(case.before, now):
            outcome.progress_seconds = _since_fault(case)
        if not goal and time.monotonic() >= goes_on_until:
            case.stop_loads()
            case.history.keep()
            goal = case.history.goal()
        if goal and now is not None and all(now.get(partition, 0) > at for partition, at in goal.items()):
            outcome.caught_up_seconds = _since_fault(case)
            return
        if time.monotonic() > deadline:
            left = sum(max(0, at + 1 - (now or {}).get(partition, 0)) for partition, at in goal.items())
            outcome.wrong.append(f"{left:,} messages still wait {RECOVER_SECONDS} s after the fault")
            return
        if not _alive(case, "ingest"):
            case.ingest()  # so that the account can be closed
        time.sleep(POLL_SECONDS)


def _is_progress(before: dict[int, int], now: dict[int, int]) -> bool:
    return any(at > before.get(partition, 0) for partition, at in now.items())


def _since_fault(case: Case) -> float:
    return round(time.monotonic() - case.fault_ended, 2)


def _settle_router(case: Case, *, supervised: bool = False) -> None:
    goes_on_until = case.fault_ended + LOAD_GOES_ON_SECONDS
    deadline = case.fault_ended + ROUTER_RECOVER_SECONDS
    before = len(case.routed.look())
    outcome, wanted = case.outcome, None
    while True:
        routed = case.routed.look()
        if outcome.progress_seconds is None and len(routed) > before:
            outcome.progress_seconds = _since_fault(case)
        if wanted is None and time.monotonic() >= goes_on_until:
            case.stop_loads()
            case.history.keep()
            wanted = expected_faults(case)
        if wanted is not None and wanted <= routed:
            outcome.caught_up_seconds = _since_fault(case)
            return
        if time.monotonic() > deadline:
            return  # _check_routed says what is missing
        if not supervised and not _alive(case, "route"):
            case.router()
        time.sleep(POLL_SECONDS)


def expected_faults(case: Case) -> set[str]:
    """Ids of the faulty readings that a router could read."""
    return expect(case.history.sent(but=case.history.gone)).faulty


def _alive(case: Case, command: str) -> bool:
    _note_ended(case)
    return any(process.is_alive and process.name.startswith(f"meters {command}") for process in case.processes)


def _note_ended(case: Case) -> None:
    for process in case.processes:
        if process.exit_code and not process.killed and not process.may_fail:
            process.may_fail = True
            said = f"`{process.name}` ended by itself, exit code {process.exit_code}: {process.last_line}"
            if not _is_tolerated(process) and said not in case.outcome.wrong:
                case.outcome.wrong.append(said)


def _is_tolerated(process: Process) -> bool:
    return bool(process.may_end_with and re.search(process.may_end_with, process.last_line))


def stop_processes(case: Case, *, but: Process | None = None) -> None:
    """Ask every process of the row to end, as an operator would; each must exit 0."""
    _note_ended(case)
    for process in case.processes:
        if process.is_alive and process is not but:
            is_young = process.age_seconds < START_SECONDS
            code = process.stop(STOP_SECONDS)
            case.promise(
                code == 0 or (is_young and code == -signal.SIGTERM),
                f"`{process.name}` ended with exit code {code} on SIGTERM: {process.last_line}",
            )


def check_law(case: Case) -> None:
    """Hold what is stored, dead-lettered and recorded as lost against what was sent, and note what is wrong."""
    outcome, history = case.outcome, case.history
    letters = []
    if case.topics.partitions(DEAD_LETTERS_TOPIC):
        settled = "dead-letter transactions are ended"
        case.wait(lambda: case.topics.settled(DEAD_LETTERS_TOPIC), SETTLED_SECONDS, settled)
        letters = case.topics.read(DEAD_LETTERS_TOPIC)
    lost = lost_places(case.database, history.eras, "ingest")
    recorded = {source for letter in letters for source in sources_of(letter)}
    recorded |= {(partition, at) for _, partition, at in lost}
    history.take_back(recorded)
    unrecorded = history.put_aside - recorded
    case.promise(not unrecorded, f"{len(unrecorded):,} messages that nobody can read are recorded nowhere")
    letters = [letter for letter in letters if source_of(letter) not in history.put_aside]
    found = account(case.database, list(history.sent()), letters, lost)
    outcome.produced, outcome.stored, outcome.duplicates = found.produced, found.stored, found.duplicates
    outcome.dead_letters, outcome.lost, outcome.put_aside = found.dead_letters, found.lost, len(history.put_aside)
    outcome.missing, outcome.doubled = len(found.missing), len(found.doubled)
    for problems in (found.missing, found.doubled, found.wrong):
        outcome.wrong += in_short(problems)
    foreign = {place for place in lost if place in history.messages} - history.gone
    case.promise(not foreign, f"{len(foreign):,} messages are recorded as lost, and could be read")
    _check_ledgers(case)


def _check_ledgers(case: Case) -> None:
    """The ledgers, where they are complete, agree with the topic: the load itself lost nothing."""
    ledgers = [load.ledger for load in case.loads]
    if ledgers and all(ledger.complete for ledger in ledgers):
        missing = sum(ledger.messages for ledger in ledgers) - len(case.history.messages) - case.history.unseen
        case.promise(missing <= 0, f"{missing:,} messages that Kafka acknowledged are not on iot-meter")


def _check_routed(case: Case) -> None:
    """Every faulty reading is an event in MongoDB, and nothing else is; what the router never had is recorded."""
    history = case.history
    lost = lost_places(case.database, history.eras, "router")
    unrecorded = {place[1:] for place in history.gone} | history.put_aside
    unrecorded -= {place[1:] for place in lost}
    case.promise(not unrecorded, f"{len(unrecorded):,} messages that the router could not read are recorded nowhere")
    foreign = {place for place in lost if place in history.messages} - history.gone
    case.promise(not foreign, f"{len(foreign):,} messages are recorded as lost to the router, and could be read")
    case.outcome.lost = max(case.outcome.lost, len(lost))
    wanted = expected_faults(case)
    done = case.run("ingest", "--faults", "--until-caught-up", "--json")
    case.promise(done.exit_code == 0, f"`{done.name}` ended with exit code {done.exit_code}: {done.last_line}")
    stored = {document["_id"] for document in case.database["iot-abnormal"].find({}, {"_id": 1})}
    missing, foreign = sorted(wanted - stored), sorted(stored - wanted)
    case.outcome.faults = len(stored)
    case.outcome.misrouted = len(missing) + len(foreign)
    case.outcome.wrong += in_short([f"the fault {key} is not routed" for key in missing])
    case.outcome.wrong += in_short([f"{key} is routed, and is no fault" for key in foreign])
