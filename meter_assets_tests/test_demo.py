"""The demo as a newcomer runs it, small; and that its checks can fail."""

import json
from datetime import date

from pymongo import MongoClient

from local_stack import LocalStack
from meter_assets_tests.support import meters
from meter_cli.demo_checks import daily_numbers
from metering.settings import Settings
from streaming.ledger import load_ledgers


def test_the_demo_agrees_with_the_simulator_twice_and_notices_a_wrong_figure(
    stack: LocalStack, database: Settings, tmp_path
):
    own = database.model_copy(update={"lake": str(tmp_path / "lake")})
    first, second = (
        meters(own, "demo", "--once", "--json", "--days", "2", "--households", "3", timeout_seconds=400) for _ in "12"
    )
    assert first.returncode == 0, first.stderr
    assert second.returncode == 0, second.stderr
    summary = json.loads(first.stdout)
    assert summary["ok"]
    assert summary["problems"] == []
    assert summary["ingest"]["messages"] == summary["ledger"]["messages"]
    assert json.loads(second.stdout)["ingest"]["stored"] == 0

    ledger = next(each for each in load_ledgers(own.home) if each.run_id == summary["ledger"]["run_id"])
    day = date.fromisoformat(min(ledger.days))
    with MongoClient(own.mongo, tz_aware=True) as client:
        published = client[own.mongo_database]
        assert list(daily_numbers(ledger, published)) == []
        published["daily_consumption"].update_one({"_id": f"{day}|device|em1|electricity"}, {"$inc": {"readings": 1}})
        assert len(list(daily_numbers(ledger, published))) == 1
