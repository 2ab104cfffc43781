"""Metabase as code: bringing a Metabase to its definitions, again and again, beside what people do there."""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import pytest

from dashboards import definitions
from dashboards import provision as provisioning
from dashboards.layout import TILES
from dashboards.provision import Report, Target, provision, target_of
from dashboards.questions import CONSUMPTION, QUESTIONS, WORST
from meter_assets_tests.metabase_server import MetabaseServer, serving
from meter_assets_tests.support import free_ports, meters
from metering.errors import MetersError, ServiceAwayError
from metering.settings import LOOPBACK, Settings

WATER = CONSUMPTION["water"]

EMAIL = "admin@example.org"
PASSWORD = "correct horse battery"  # noqa: S105 - of the test's own server
MONGO_URI = "mongodb://metabase:read-only-secret@db:27017/iot?authSource=admin"


@pytest.fixture
def server() -> MetabaseServer:
    return MetabaseServer()


@pytest.fixture
def target(server: MetabaseServer) -> Iterator[Target]:
    with serving(server) as url:
        yield Target(url, EMAIL, PASSWORD, MONGO_URI)


def run(target: Target, **options: Any) -> Report:
    return provision(target, wait_seconds=10, poll_seconds=0.01, **options)


def actions(report: Report) -> dict[str, str]:
    return {f"{step.kind} {step.name}": step.action for step in report.steps}


def redefine(monkeypatch: pytest.MonkeyPatch, *questions: Any) -> None:
    """Have these questions be defined otherwise, in place of those with their keys."""
    changed = {question.key: question for question in questions}
    monkeypatch.setattr(provisioning, "QUESTIONS", [changed.get(each.key, each) for each in QUESTIONS])


def refusal(target: Target, **options: Any) -> str:
    with pytest.raises(MetersError) as caught:
        run(target, **options)
    line = str(caught.value)
    assert "\n" not in line
    for secret in (PASSWORD, MONGO_URI, "read-only-secret"):
        assert secret not in line
    return line


def test_a_new_metabase_gets_everything_and_a_second_run_changes_nothing(
    server: MetabaseServer, target: Target
) -> None:
    server.starting = 3
    first = run(target)
    assert set(actions(first).values()) == {"created"}
    assert server.users[EMAIL]["is_superuser"]

    (database,) = server.things["database"].values()
    assert database["name"] == "Smart metering"
    assert database["details"]["conn-uri"] == MONGO_URI
    (collection,) = server.things["collection"].values()
    cards = server.things["card"]
    assert sorted(card["name"] for card in cards.values()) == sorted(question.title for question in QUESTIONS)
    assert {card["collection_id"] for card in cards.values()} == {collection["id"]}
    assert {card["dataset_query"]["database"] for card in cards.values()} == {database["id"]}
    (dashboard,) = server.things["dashboard"].values()
    assert [cards[tile["card_id"]]["name"] for tile in dashboard["dashcards"]] == [
        tile.question.title for tile in TILES
    ]
    filtered = {cards[tile["card_id"]]["name"]: len(tile["parameter_mappings"]) for tile in dashboard["dashcards"]}
    assert filtered["Electricity consumption per day"] == filtered["Worst meters"] == 2
    assert filtered["Faults now"] == 0

    writes = list(server.writes)
    second = run(target)
    assert second.changes == 0
    assert server.writes == writes
    assert server.sessions == {}, "every run ends its session"


def test_a_changed_definition_updates_its_question_in_place(
    server: MetabaseServer, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(target)
    before = {name: id_ for id_, card in server.things["card"].items() for name in [card["name"]]}
    server.writes.clear()
    redefine(monkeypatch, dataclasses.replace(WATER, settings={**WATER.settings, "graph.show_values": True}))
    report = run(target)
    assert {name for name, action in actions(report).items() if action == "updated"} == {f"question {WATER.title}"}
    assert server.writes == [("PUT", f"/api/card/{before[WATER.title]}")]
    assert server.things["card"][before[WATER.title]]["visualization_settings"]["graph.show_values"]
    assert run(target).changes == 0


def test_what_people_make_and_change_is_left_alone(server: MetabaseServer, target: Target) -> None:
    run(target)
    cards = server.things["card"]
    ours = next(card for card in cards.values() if card["name"] == WATER.title)
    copy = server.add("card", **{name: value for name, value in ours.items() if name != "id"} | {"name": "My water"})
    ours["display"] = "area"
    ours["archived"] = True
    theirs = json.dumps([cards[copy], ours])

    report = run(target)  # the archived one is made anew; the copy, which carries its line, is somebody's own
    assert {name: action for name, action in actions(report).items() if action != "unchanged"} == {
        f"question {WATER.title}": "created",
        "dashboard Smart metering": "updated",
    }
    assert json.dumps([cards[copy], ours]) == theirs
    (dashboard,) = server.things["dashboard"].values()
    shown = {tile["card_id"] for tile in dashboard["dashcards"]}
    assert len(shown) == len(TILES)
    assert not shown & {copy, ours["id"]}


def test_tiles_filters_and_tabs_of_people_stay_when_our_dashboard_changes(
    server: MetabaseServer, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(target)
    (dashboard,) = server.things["dashboard"].values()
    heading = {"virtual_card": {"display": "heading"}, "text": "Ours"}
    bottom = {"id": 900, "row": 40, "col": 0, "size_x": 24, "size_y": 2, "visualization_settings": heading}
    hidden = {**bottom, "id": 901, "row": 29, "size_y": 1}
    dashboard["tabs"] = [{"id": 7, "name": "All"}]
    dashboard["dashcards"] = [{**tile, "dashboard_tab_id": 7} for tile in [*dashboard["dashcards"], bottom, hidden]]
    dashboard["parameters"].append({"id": "abcdef01", "type": "string/=", "name": "District", "slug": "district"})
    numbers = [tile["id"] for tile in dashboard["dashcards"]]

    taller = [dataclasses.replace(tile, height=9) if tile.row == 21 else tile for tile in TILES]
    monkeypatch.setattr(definitions, "TILES", taller)
    assert run(target).changes == 1
    (dashboard,) = server.things["dashboard"].values()
    assert [tile["id"] for tile in dashboard["dashcards"]] == numbers
    by_id = {tile["id"]: tile for tile in dashboard["dashcards"]}
    assert by_id[900]["row"] == 40
    assert by_id[901]["row"] >= 42, "one that ours would hide moves below"
    assert by_id[900]["visualization_settings"] == heading
    assert "abcdef01" in {parameter["id"] for parameter in dashboard["parameters"]}
    assert [tab["name"] for tab in dashboard["tabs"]] == ["All"]


def test_a_run_that_died_anywhere_is_continued_without_doubles(server: MetabaseServer, target: Target) -> None:
    run(target)
    everything = len(server.writes)
    assert everything == 2 * (len(QUESTIONS) + 3)
    for after in range(everything):
        broken = MetabaseServer()
        broken.fail_after = after
        with serving(broken) as url:
            own = dataclasses.replace(target, url=url)
            assert "out of order" in refusal(own)
            broken.fail_after = None
            run(own)
            assert {kind: len(things) for kind, things in broken.things.items()} == {
                "database": 1,
                "collection": 1,
                "card": len(QUESTIONS),
                "dashboard": 1,
            }, after
            assert run(own).changes == 0


def test_a_new_mongo_uri_reaches_the_connection_and_is_nowhere_to_be_read(
    server: MetabaseServer, target: Target
) -> None:
    run(target)
    moved = dataclasses.replace(target, mongo_uri=MONGO_URI.replace("read-only-secret", "another-secret"))
    assert {name for name, action in actions(run(moved)).items() if action != "unchanged"} == {
        "database connection Smart metering"
    }
    (database,) = server.things["database"].values()
    assert database["details"]["conn-uri"] == moved.mongo_uri
    assert "secret" not in database["description"]
    assert run(moved).changes == 0


def test_a_question_that_is_no_longer_defined_is_named_and_stays(
    server: MetabaseServer, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(target)
    monkeypatch.setattr(provisioning, "QUESTIONS", [each for each in QUESTIONS if each.key != WORST.key])
    monkeypatch.setattr(definitions, "TILES", [tile for tile in TILES if tile.question.key != WORST.key])
    report = run(target)
    assert actions(report)[f"question {WORST.key}"] == "abandoned"
    assert not any(card["archived"] for card in server.things["card"].values())
    assert run(target).changes == 0


def test_a_dry_run_says_what_would_change_and_writes_nothing(
    server: MetabaseServer, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = run(target, dry_run=True)
    assert set(actions(report).values()) == {"created"}
    assert report.changes == len(QUESTIONS) + 4
    assert (server.writes, server.users) == ([], {})
    run(target)
    writes = list(server.writes)
    redefine(monkeypatch, dataclasses.replace(WATER, title="Water"))
    assert actions(run(target, dry_run=True))["question Water"] == "updated"
    assert server.writes == writes
    assert server.sessions == {}


def test_refusals_are_one_line_each_without_secrets(server: MetabaseServer, target: Target) -> None:
    (port,) = free_ports(1)
    with pytest.raises(ServiceAwayError, match="not ready after 0 s: nothing answers there"):
        provision(dataclasses.replace(target, url=f"http://{LOOPBACK}:{port}"), wait_seconds=0)

    server.moved_to = "https://metabase.example.org/"
    assert "sends on to https://metabase.example.org/" in refusal(target)
    server.moved_to = ""

    server.starting = 10**9
    with pytest.raises(ServiceAwayError, match=r"not ready after 0\.1 s: it is starting"):
        provision(target, wait_seconds=0.1, poll_seconds=0.01)
    server.starting = 0

    assert "password is too common" in refusal(dataclasses.replace(target, password="short"))  # noqa: S106
    server.unreachable.add(MONGO_URI)
    assert "refused to create the database connection" in refusal(target)
    server.unreachable.clear()

    server.version = "v0.56.2"
    assert "is v0.56.2, which is not supported" in refusal(target)
    server.version = "v1.99.0"
    assert run(target).is_newer

    wrong = refusal(dataclasses.replace(target, password="another password"))  # noqa: S106
    assert f"does not let {EMAIL} in" in wrong
    assert "another password" not in wrong


def test_a_metabase_that_somebody_else_has_set_up_is_not_touched(server: MetabaseServer, target: Target) -> None:
    server.add_user("somebody@example.org", "their password")
    assert "somebody has set it up with another administrator" in refusal(target)
    server.add_user(EMAIL, PASSWORD, superuser=False)
    assert "is no administrator" in refusal(target)
    assert server.writes == []


def test_the_command_speaks_to_people_and_scripts(server: MetabaseServer, settings: Settings) -> None:
    with serving(server) as url:
        chosen = Settings.model_validate(
            {
                **settings.model_dump(),
                "metabase_url": f"{url}/",
                "metabase_admin_email": EMAIL,
                "metabase_admin_password": PASSWORD,
                "metabase_mongo_uri": MONGO_URI,
            }
        )
        first = meters(chosen, "dashboards", "--json")
        assert first.returncode == 0, first.stderr
        report = json.loads(first.stdout)
        assert (report["changes"], report["version"]) == (len(QUESTIONS) + 4, "v0.63.19")
        second = meters(chosen, "dashboards")
        assert (second.returncode, "Nothing to change" in second.stderr) == (0, True), second.stderr
        server.users[EMAIL]["password"] = "changed"  # noqa: S105
        third = meters(chosen, "dashboards", "--json")
        assert (third.returncode, third.stdout) == (1, "")
        assert third.stderr.startswith("error: ")
        assert len(third.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"metabase_url": None}, "without METERS_METABASE_URL"),
        ({"metabase_mongo_uri": "mongodb://metabase:read-only-secret@db"}, "names no database"),
        ({"metabase_mongo_uri": "mongodb://metabase:read-only-secret@db/other"}, "names the database other"),
        ({"metabase_mongo_uri": "metabase:read-only-secret@db/iot"}, "is not a usable MongoDB URI"),
    ],
)
def test_settings_that_do_not_do_are_told_before_anything_happens(changes: dict[str, Any], line: str) -> None:
    usable = {
        "metabase_url": "http://metabase:3000",
        "metabase_admin_email": EMAIL,
        "metabase_admin_password": PASSWORD,
        "metabase_mongo_uri": MONGO_URI,
    }
    assert target_of(Settings.model_validate(usable)).url == "http://metabase:3000"
    with pytest.raises(MetersError) as caught:
        target_of(Settings.model_validate({**usable, **changes}))
    assert line in str(caught.value)
    assert "read-only-secret" not in str(caught.value)
