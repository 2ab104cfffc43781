"""The fault suite itself: its judge finds what it must find, its schedule repeats, and a few quick rows hold."""

import random
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import pytest
from pymongo.database import Database

from fault_injection.account import account, sources_of
from fault_injection.figures import wrong_figures
from fault_injection.history import History
from fault_injection.oracle import expect, reading_of
from fault_injection.report import BEGIN, END, measured, table, total, write_page
from fault_injection.row import Outcome, Row, State, row
from fault_injection.schedule import DEEDS, ROUND_SECONDS, draw
from fault_injection.suite import chosen_rows, missing, run_rows
from fault_injection.table import ROWS, VARIANTS
from fault_injection.topics import Message
from metering.reading import encode_message
from streaming.ingest.batch import READINGS_FEED
from streaming.simulator.malformed import GARBLERS, conflicting, garbled

SECONDS = "2024-03-04T00:00:00Z"


def electricity(device: str = "em1", stamp: str = SECONDS, usage_kwh: float = 1.5) -> bytes:
    return encode_message({"device_id": device, "timestamp": stamp, "usage_kwh": usage_kwh})


def message(offset: int, value: bytes) -> Message:
    return Message(0, offset, b"em1", value, {}, 0)


def store(mongo: Database, *values: bytes) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    mongo["iot-meter"].insert_many([{**READINGS_FEED.parse(value), "received_at": now} for value in values])


def letter(number: int, source: Message) -> Message:
    headers = {
        "__connect.errors.partition": str(source.partition).encode(),
        "__connect.errors.offset": str(source.offset).encode(),
    }
    return Message(0, number, source.key, source.value, headers, 0)


SENT = [
    message(0, electricity()),
    message(1, electricity()),
    message(2, conflicting(electricity())),
    message(3, b"garbage"),
    message(4, electricity("em2", usage_kwh=-1)),
]


def found(mongo: Database, letters: list[Message], lost: Any = frozenset()) -> dict[str, int]:
    result = account(mongo, SENT, letters, set(lost))
    return {name: len(getattr(result, name)) for name in ("missing", "doubled", "wrong")}


def test_the_account_balances_when_all_is_well(mongo: Database):
    store(mongo, SENT[0].value or b"", SENT[4].value or b"")
    result = account(mongo, SENT, [letter(0, SENT[2]), letter(1, SENT[3])], set())
    assert (result.produced, result.stored, result.duplicates, result.dead_letters, result.lost) == (5, 2, 1, 2, 0)
    assert not [*result.missing, *result.doubled, *result.wrong]
    assert result.expected.faulty == {f"{SECONDS}|em2"}


def test_the_account_finds_what_is_missing_doubled_and_foreign(mongo: Database):
    store(mongo, SENT[0].value or b"", electricity("em3"))
    letters = [letter(0, SENT[3]), letter(1, SENT[3]), letter(2, SENT[0])]
    # Missing: the reading of em2, the conflict. Doubled: the garbage. Foreign: em3, and the letter of a good reading.
    assert found(mongo, letters) == {"missing": 2, "doubled": 1, "wrong": 2}


def test_the_account_finds_a_reading_stored_with_another_payload(mongo: Database):
    store(mongo, conflicting(electricity()), SENT[4].value or b"")
    assert found(mongo, [letter(0, SENT[2]), letter(1, SENT[3])])["wrong"] == 1


def test_what_is_recorded_as_lost_is_not_missing(mongo: Database):
    store(mongo, SENT[0].value or b"")
    assert found(mongo, [letter(0, SENT[2]), letter(1, SENT[3])], {(0, 0, 4)}) == {
        "missing": 0,
        "doubled": 0,
        "wrong": 0,
    }


def test_a_letter_for_a_batch_stands_for_all_its_messages_and_what_was_read_before_is_expected():
    aside = message(7, b"raw batch")
    whole = Message(0, 0, None, None, {**letter(0, aside).headers, "messages": b"3"}, 0)
    assert sources_of(whole) == {(0, 7), (0, 8), (0, 9)}
    assert sources_of(letter(0, SENT[3])) == {(0, 3)}
    history = History(cast(Any, None))
    history.put_aside = {(0, offset) for offset in range(5, 10)}
    history.spoiled = {(0, 0, 5): message(5, electricity())}
    history.take_back(sources_of(whole))
    # 5 was readable once and is not recorded, 6 never was: nobody knows where it went.
    assert [each.offset for each in history.sent()] == [5]
    assert history.put_aside - sources_of(whole) == {(0, 6)}


@pytest.mark.parametrize("kind", range(len(GARBLERS)))
def test_the_judge_refuses_what_the_simulator_garbles(kind: int):
    assert reading_of(garbled(electricity(), kind)) is None
    assert reading_of(electricity()) is not None


def test_figures_that_differ_are_found(mongo: Database):
    sums = expect(SENT).healthy_sums()
    assert sums == {
        ("2024-03-04", "em1"): (1, 0, Decimal("1.5")),
        ("2024-03-04", "em2"): (0, 1, Decimal(0)),
    }
    compared, wrong = wrong_figures(mongo, SENT, [date(2024, 3, 4)])
    assert compared == 2 * 4 + 3 + 2 + 1
    assert len(wrong) == compared - 2  # nothing is published: em1 without faults and the empty list agree


def test_a_seed_draws_the_same_faults_again_and_faults_of_one_target_do_not_overlap():
    faults = draw(random.Random("7|1"))
    assert faults == draw(random.Random("7|1"))
    assert faults != draw(random.Random("8|1"))
    assert len(faults) > 5
    for target in DEEDS:
        own = [fault for fault in faults if fault.target == target]
        assert all(one.at + one.seconds <= next_one.at for one, next_one in zip(own, own[1:], strict=False))
        assert all(fault.deed in DEEDS[target] and 0 <= fault.at < ROUND_SECONDS for fault in own)


def test_the_table_has_a_row_for_each_case_and_each_its_own_name():
    assert len({row.id for row in ROWS}) == len(ROWS) >= 60
    assert len(chosen_rows()) >= 60
    assert set(chosen_rows()) < set(chosen_rows(full=True)) == set(ROWS)
    assert {row.id for row in ROWS} >= VARIANTS
    assert all(row.promise.endswith(".") for row in ROWS)


def test_what_cannot_run_here_is_skipped_with_its_reason(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    needy = row("mongod", "full", "its disk is full", "It is named.", lambda case: None, needs=("root",))
    assert missing(needy) == "it takes root"
    (outcome,) = run_rows([needy], seed=1, report=lambda line: None)
    assert (outcome.state, measured(outcome)) == (State.SKIPPED, "skipped: it takes root")


def outcome_of(**fields: Any) -> Outcome:
    case = Row("ingest-kill", "ingest", "SIGKILL", "Nothing lost.", lambda case: None)
    return Outcome(case, **fields)


def test_the_page_keeps_what_people_wrote_around_the_table(tmp_path: Path):
    page = tmp_path / "reliability.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    held = outcome_of(produced=10, stored=7, duplicates=1, dead_letters=2, caught_up_seconds=1.25)
    broken = outcome_of(state=State.BROKEN, wrong=["a|b is not stored"], missing=1)
    totals = total([held, broken], 60)
    assert not totals.good
    unrun = Row("mongod-full", "mongod", "its disk is full", "It is named.", lambda case: None)
    write_page(table([held, broken], totals, seed=3, rows=[held.row, unrun]), page)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert "10 = 7 + 1 + 2 + 0; recovered in 1.2 s" in text
    assert "**broken**: a\\|b is not stored" in text
    assert "2 cases: 1 held, 1 broken, 0 skipped" in text
    assert "| `mongod-full` | mongod: its disk is full | It is named. | not run |" in text
    assert text.count("not run") == 1


@pytest.mark.timeout(600)
def test_the_quick_rows_hold():
    rows = [row for row in ROWS if row.in_tests]
    outcomes = list(run_rows(rows, seed=random.randrange(10**6), report=print))
    assert len(outcomes) == len(rows) >= 3
    assert {outcome.row.id: outcome.wrong for outcome in outcomes if outcome.wrong} == {}
