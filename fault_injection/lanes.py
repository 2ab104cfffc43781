"""Two rows at a time: most rows wait for sessions and pauses, and leave the processor to others.

A lane is a process of its own with its own services and ports, so that a load's thread in one does not slow the other.
`python -m fault_injection.lanes SEED ROW…` is a lane; it writes a JSON document per line to standard output.
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from fault_injection.processes import PROJECT
from fault_injection.row import Group, Outcome, Row, State
from fault_injection.stacks import FIRST_PORT, LAST_PORT, PORTS_VARIABLE, Report
from fault_injection.suite import run_rows
from fault_injection.table import ROWS
from runtime.child_process import bound_command

LANES = (
    (Group.INGEST, Group.ROUTER),
    (Group.DAYS, Group.DAGSTER, Group.CLUSTER, Group.WORKERS, Group.OWN),
)
"""Which groups run beside each other: each lane takes about as long as the other one."""

END_SECONDS = 120


def run_in_lanes(rows: Sequence[Row], *, seed: int, report: Report) -> Iterator[Outcome]:
    """Run rows in as many lanes as they need; yields each outcome when it is there.

    Args:
        rows: which.
        seed: of the loads.
        report: gets lines of progress.
    """
    shares = [[row for row in rows if row.group in groups] for groups in LANES]
    shares = [share for share in shares if share]
    if len(shares) < 2:
        yield from run_rows(rows, seed=seed, report=report)
        return
    messages: queue.Queue[tuple[int, dict[str, Any] | None]] = queue.Queue()
    lanes = [_start(number, share, seed, messages) for number, share in enumerate(shares)]
    left = [{row.id: row for row in share} for share in shares]
    try:
        ended = 0
        while ended < len(lanes):
            number, message = messages.get()
            if message is None:
                ended += 1
                for row in left[number].values():
                    yield Outcome(row, State.BROKEN, wrong=[f"its lane ended, exit code {lanes[number].wait()}"])
            elif "line" in message:
                report(message["line"])
            else:
                outcome = _outcome(message["outcome"])
                left[number].pop(outcome.row.id)
                yield outcome
    finally:
        for lane in lanes:
            lane.send_signal(signal.SIGTERM)  # it cleans up
        for lane in lanes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                lane.wait(END_SECONDS)
            lane.kill()


def _start(
    number: int, rows: Sequence[Row], seed: int, messages: queue.Queue[tuple[int, dict[str, Any] | None]]
) -> subprocess.Popen[str]:
    width = (LAST_PORT + 1 - FIRST_PORT) // len(LANES)
    first = FIRST_PORT + number * width
    command = [sys.executable, "-m", "fault_injection.lanes", str(seed), *(row.id for row in rows)]
    path = os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH", "")]))
    lane = subprocess.Popen(
        bound_command(command, signal.SIGTERM),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path, PORTS_VARIABLE: f"{first}-{first + width - 1}"},
        start_new_session=True,  # Ctrl-C reaches us, and we end the lanes
        text=True,
    )

    def listen() -> None:
        for line in lane.stdout or ():
            messages.put((number, json.loads(line)))
        messages.put((number, None))

    threading.Thread(target=listen, name=f"lane-{number}", daemon=True).start()
    return lane


def _outcome(fields: dict[str, Any]) -> Outcome:
    by_id = {row.id: row for row in ROWS}
    chosen = {name: value for name, value in fields.items() if name in Outcome.__dataclass_fields__}
    return Outcome(by_id[fields["id"]], **{**chosen, "state": State(fields["state"])})


def main() -> None:
    """Be a lane."""
    seed, *ids = sys.argv[1:]
    by_id = {row.id: row for row in ROWS}

    def write(message: dict[str, Any]) -> None:
        print(json.dumps(message, default=str), flush=True)

    with contextlib.suppress(KeyboardInterrupt):
        for outcome in run_rows(
            [by_id[each] for each in ids], seed=int(seed), report=lambda line: write({"line": line})
        ):
            write({"outcome": outcome.summary()})


if __name__ == "__main__":
    main()
