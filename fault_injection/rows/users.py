"""What users meet: wrong passwords, services that are not there, clocks that step."""

import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pymongo import MongoClient

from fault_injection.case import Case
from fault_injection.ending import recover
from fault_injection.inject import hold
from fault_injection.row import Row, row

PASSWORD, WRONG = "right-and-secret", "wrong-and-secret"  # noqa: S105 - of a database that lives as long as a row
COMMAND_SECONDS = 120
CLOCK = Path(__file__).parents[1] / "clock.c"


def wrong_password(case: Case) -> None:
    """Commands with a wrong password: one line each, without the password; with the right one all is taken."""
    name = f"user_{case.database.name}"
    with MongoClient(case.settings.mongo) as client:
        client.admin.command("createUser", name, pwd=PASSWORD, roles=["readWriteAnyDatabase", "dbAdminAnyDatabase"])
    case.load(days=1, rate=None).finish()
    address = case.settings.mongo.removeprefix("mongodb://")
    for command in (["ingest", "--until-caught-up"], ["late"], ["history", "daily_averages", "2024-03-04"]):
        refused = case.run(
            *command,
            within_seconds=COMMAND_SECONDS,
            settings=case.settings.model_copy(update={"mongo_uri": f"mongodb://{name}:{WRONG}@{address}"}),
        )
        _one_line(case, refused.exit_code, refused.lines, f"meters {command[0]}")
        case.promise(not any(WRONG in line for line in refused.lines), "the line shows the password")
    case.promise(case.database["iot-meter"].count_documents({}) == 0, "something is stored with a wrong password")
    case.ingest(settings=case.settings.model_copy(update={"mongo_uri": f"mongodb://{name}:{PASSWORD}@{address}"}))
    recover(case)


def service_missing(case: Case, *, service: str) -> None:
    """A service does not answer when commands start: one line each, which says what to do."""
    case.load(days=1, rate=None).finish()
    case.stack.kill(service)
    title = {"mongo": "MongoDB", "kafka": "Kafka"}[service]
    commands = {
        "mongo": (["ingest"], ["late"], ["history", "daily_averages", "2024-03-04"], ["route"], ["simulate"]),
        "kafka": (["ingest"], ["simulate"], ["route"]),
    }
    for command in commands[service]:
        refused = case.run(*command, within_seconds=COMMAND_SECONDS)
        _one_line(case, refused.exit_code, refused.lines, f"meters {command[0]}")
        case.promise(title in refused.last_line, f"`meters {command[0]}` does not name {title}: {refused.last_line}")
    case.stack.start_service(service)
    case.ingest()
    recover(case)


def _one_line(case: Case, exit_code: int | None, lines: list[str], command: str) -> None:
    case.promise(exit_code == 1, f"`{command}` ended with exit code {exit_code}")
    errors = [line for line in lines if line.startswith("error: ")]
    case.promise(len(errors) == 1 and lines[-1] in errors, f"`{command}` says more or less than one line: {lines[-3:]}")


def clock_steps(case: Case, *, days: int) -> None:
    """The clock of ingest's process steps under load, and steps back."""
    step, library = case.folder / "step", case.folder / "clock.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(CLOCK), "-ldl"], check=True)  # noqa: S607
    environment = {"LD_PRELOAD": str(library), "CLOCK_STEP_FILE": str(step)}
    case.load(rate=500)
    case.ingest(environment=environment)
    case.wait_at_work(500)
    for seconds in (days * 86_400, 0):
        step.write_text(str(seconds))
        hold(5)
    recover(case)


ONE_LINE = "Each command ends with exit code 1 and one line that says what to do; afterwards nothing is lost."


def _row(process: str, name: str, fault: str, promise: str, run: Callable[[Case], None], *needs: str) -> Row:
    return row(process, name, fault, promise, run, needs=needs)


ROWS = (
    _row("commands", "wrong-password", "a wrong password for MongoDB", f"{ONE_LINE} No line has it.", wrong_password),
    _row("commands", "no-mongod", "MongoDB is not there", ONE_LINE, partial(service_missing, service="mongo")),
    _row("commands", "no-broker", "Kafka is not there", ONE_LINE, partial(service_missing, service="kafka")),
    *(
        _row(
            *("clock", f"{'ahead' if days > 0 else 'back'}", f"ingest's clock steps by {days:+} days, and back"),
            "Nothing lost, nothing twice.",
            partial(clock_steps, days=days),
            "cc",
        )
        for days in (3, -3)
    ),
)
