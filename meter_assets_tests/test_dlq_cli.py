"""`meters dlq` as its users meet it: what it prints, its exit codes, and that a letter's content steers nothing."""

import json
from collections.abc import Callable
from functools import partial

import pytest
from pymongo.database import Database
from typer.testing import CliRunner, Result

from meter_assets_tests.dlq_support import Office
from meter_assets_tests.ingest_support import Pipe, electricity
from meter_assets_tests.support import meters
from meter_cli.dlq import app
from meter_cli.dlq_view import visible
from metering.errors import MetersError
from metering.letters import PAGE
from metering.settings import Settings
from streaming.dead_letter_topic import dead_letter_headers
from streaming.dead_letters.index import DeadLetterIndex
from streaming.dead_letters.replay import LetterReplay

ESC = "\x1b"
STEERING = f"{ESC}]0;title\x07{ESC}[31m\x9b2J\u202eright to left[bold red]markup[/] [/nope] \r\n"
BAD_USAGE = b'{"device_id":"em1","timestamp":"2024-05-01T00:00:01Z","usage_kwh":"ten"}'

Run = Callable[..., Result]


@pytest.fixture
def office(database: Settings, mongo: Database) -> Office:
    return Office(Pipe.fresh(database), mongo)


@pytest.fixture
def run(office: Office, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`meters dlq` in this process, on the topics of the test."""
    topic, feeds = office.pipe.dead_letters_topic, [office.pipe.feed]
    monkeypatch.setattr("streaming.dead_letters.index.DeadLetterIndex", partial(DeadLetterIndex, topic=topic))
    monkeypatch.setattr("streaming.dead_letters.replay.LetterReplay", partial(LetterReplay, feeds=feeds))
    monkeypatch.setattr("meter_cli.dlq.load_settings", lambda: office.pipe.settings)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("meter_cli.console.out._width", 200)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments))

    return run


def error_of(result: Result) -> str:
    """The one line that `main` prints for it."""
    assert isinstance(result.exception, MetersError), result.output
    line = str(result.exception)
    assert "\n" not in line
    return line


def test_nothing_to_list_says_what_fills_the_list(run: Run):
    result = run("list")
    assert (result.exit_code, result.stdout) == (
        0,
        "No dead letters. Ingest keeps here what it refuses: meters ingest\n",
    )
    assert json.loads(run("list", "--json").stdout)["letters"] == []
    assert "nothing was sent" in run("replay", "--all").stdout
    assert "There is no dead letter" in error_of(run("show", "no-such"))


def test_from_the_list_to_a_stored_reading(office: Office, run: Run):
    office.pipe.send([("em1", BAD_USAGE), ("em2", b"garbage")])
    office.pipe.ingest()

    listed = json.loads(run("list", "--json", "--reason", "invalid_reading").stdout)
    (letter,) = listed["letters"]
    assert (letter["device_id"], letter["state"], listed["matching"]) == ("em1", "open", 1)
    assert listed["states"]["open"] == 2
    table = run("list", "--device", "em1").stdout
    assert letter["short_id"] in table
    assert "garbage" not in table
    shown = run("show", letter["short_id"]).stdout
    assert '"usage_kwh":"ten"' in shown
    assert letter["id"] in shown
    planned = run("replay", letter["id"], "--set", "usage_kwh=11", "--dry-run").stdout
    assert '"usage_kwh":11' in planned
    assert "refused again" not in planned
    assert "refused again" in run("replay", letter["id"], "--dry-run").stdout
    assert len(office.pipe.sent()) == 2  # a dry run has sent nothing

    result = run("replay", letter["short_id"], "--set", "usage_kwh=11", "--by", "Eva", "--why", "typing error")

    assert result.exit_code == 0
    assert result.stdout.startswith("Sent 1 message again.")
    assert office.pipe.ingest().stored == 1
    assert len(json.loads(run("list", "--json").stdout)["letters"]) == 1
    assert len(json.loads(run("list", "--all", "--json").stdout)["letters"]) == 2
    after = json.loads(run("show", letter["id"], "--json").stdout)
    assert (after["state"], after["replays"][0]["by"], after["replays"][0]["why"]) == ("stored", "Eva", "typing error")
    assert after["value"] == BAD_USAGE.decode()
    again = run("replay", letter["id"])
    assert again.exit_code == 1
    assert "1 of 1 letter" in error_of(again)


def test_content_of_a_letter_steers_neither_terminal_nor_markup(office: Office, run: Run):
    """Once each of these would have reached the terminal raw, or ended rich's markup with a trace."""
    raw = STEERING.encode() + b"\xff\xfe"
    headers = dead_letter_headers(reason=STEERING, stage=STEERING, error_class=STEERING, message=STEERING)
    office.write((raw, raw, [*headers, ("source", STEERING.encode())]))
    letter = office.letter()

    outputs = [
        run("list").output,
        run("list", "--json").output,
        run("show", letter["_id"]).output,
        run("show", letter["_id"], "--json").output,
        run("replay", letter["_id"], "--dry-run").output,
        run("list", "--reason", STEERING).output,
    ]

    for output in outputs:
        assert output
        assert all(character.isprintable() or character == "\n" for character in output), output
    assert "[bold red]markup[/]" in outputs[2]
    assert r"\x1b]0;title\x07" in outputs[2]
    shown = json.loads(outputs[3])
    assert (shown["value"], shown["reason"]) == (None, STEERING)
    assert len(shown["value_base64"]) > 10
    for wrong in (STEERING, "[/nope]", "a" * 10_000, "{'$gt': ''}"):
        assert all(character.isprintable() for character in error_of(run("show", wrong)))


def test_visible_text_has_no_character_that_is_not_printable():
    for code in range(0x3000):
        assert str(visible(chr(code))).isprintable()


def test_many_letters_need_a_yes(office: Office, run: Run):
    office.write(*((b"em1", f"garbage {number}".encode(), office.headers()) for number in range(PAGE + 1)))

    for command in (("replay", "--all"), ("drop", "--all", "--why", "x")):
        assert f"{PAGE + 1} letters" in error_of(run(*command))
    assert {letter["state"] for letter in office.letters()} == {"open"}
    table = run("list")
    assert "1 more: --limit" in table.output
    assert run("replay", "--all", "--limit", "1").exit_code == 0
    assert run("replay", "--all", "--yes").exit_code == 0
    assert len(office.pipe.sent()) == PAGE + 1
    assert office.pipe.ingest().refused_again == PAGE + 1


def test_drop_and_undo(office: Office, run: Run):
    office.pipe.send([("em1", BAD_USAGE), ("em2", b"garbage")])
    office.pipe.ingest()
    assert run("drop", "--device", "em1").exit_code == 2  # without a reason

    result = run("drop", "--device", "em1", "--why", "a test meter", "--by", "Eva")

    assert result.stdout.startswith("1 letter dropped")
    assert json.loads(run("list", "--json").stdout)["states"]["dropped"] == 1
    (letter,) = json.loads(run("list", "--state", "dropped", "--json").stdout)["letters"]
    assert (letter["dropped"]["by"], letter["dropped"]["why"]) == ("Eva", "a test meter")
    assert run("drop", letter["id"], "--why", "twice").exit_code == 0
    assert run("drop", "--undo", letter["short_id"]).stdout.startswith("1 letter no longer dropped")
    assert json.loads(run("list", "--json").stdout)["states"]["dropped"] == 0
    assert run("drop", letter["id"], "--why", "y").exit_code == 0
    office.pipe.ingest()
    assert run("list", "--reason", "invalid_reading").stdout.startswith("No dead letters match (open 1, dropped 1)")


def test_a_conflict_is_taken(office: Office, run: Run):
    office.pipe.send([electricity("em1", 1), electricity("em1", 1, usage_kwh=9)])
    office.pipe.ingest()

    assert run("replay", "--reason", "conflict", "--take", "--why", "the meter was read again").exit_code == 0
    assert office.pipe.ingest().taken == 1

    assert [each["usage_kwh"] for each in office.pipe.stored().values()] == [9.0]


@pytest.mark.parametrize(
    "arguments",
    [
        ("replay",),
        ("replay", "id", "--reason", "conflict"),
        ("drop", "--why", "x"),
        ("list", "--since", "yesterday"),
        ("list", "--state", "nowhere"),
        ("list", "--limit", "0"),
    ],
)
def test_wrong_usage_has_exit_code_2(run: Run, arguments: tuple[str, ...]):
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_filters_by_time(office: Office, run: Run):
    office.write((b"em1", b"garbage", office.headers()))
    at = office.letter()["at"].isoformat()
    count = lambda *arguments: json.loads(run("list", "--json", *arguments).stdout)["matching"]  # noqa: E731
    assert count("--since", at) == 1
    assert count("--until", at) == 0
    assert count("--since", "2000-01-01", "--until", "2000-01-02T03:04") == 0
    assert count("--device", "em1") == 1
    assert count("--device", '{"$gt": ""}') == 0


def test_a_service_that_does_not_answer_is_one_line(database: Settings):
    mongo = "mongodb://127.0.0.1:1/?replicaSet=meters"
    changes = ({"METERS_KAFKA_BOOTSTRAP": "127.0.0.1:1"}, "Kafka"), ({"METERS_MONGO_URI": mongo}, "MongoDB")
    for changed, missing in changes:
        result = meters(database, "dlq", "list", timeout_seconds=120, **changed)
        assert (result.returncode, result.stdout) == (1, "")
        (line,) = result.stderr.splitlines()
        assert line.startswith(f"error: {missing} does not answer at 127.0.0.1:1")
