"""A hostile page in a real browser, against Dagster's webserver as it comes and behind the guard."""

from collections.abc import Iterator
from typing import Any

import pytest

from meter_assets_tests.browser_support import chromium, hostile_site
from meter_assets_tests.web_support import GUARDED, OPEN, Webserver, as_json, forge, webserver

PATIENCE_MS = 60_000

BY_PAGE = {
    "2025-02-01": "a picture, as in case 39",
    "2025-02-02": "a script's address",
    "2025-02-03": "a form",
    "2025-02-04": "a form of plain text",
    "2025-02-05": "a form of parts",
    "2025-02-06": "fetch with text/plain",
    "2025-02-07": "fetch without CORS",
    "2025-02-08": "a report without a body",
}
"""Days that the page forges, by the way it does. 2025-02-09 is a mutation by WebSocket, which Dagster itself refuses;
2025-02-10 is JSON, for which the browser asks leave first."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, browser: Any) -> Iterator[Webserver]:
    with webserver(GUARDED, tmp_path_factory.mktemp("guarded")) as running:
        yield running


@pytest.fixture(scope="module")
def unguarded(tmp_path_factory: pytest.TempPathFactory, browser: Any) -> Iterator[Webserver]:
    with webserver(OPEN, tmp_path_factory.mktemp("open")) as running:
        yield running


def attack(browser: Any, server: Webserver, site: str) -> tuple[dict[str, str], str]:
    """Have the page do its work: what it has read, and what stands in its frame."""
    with hostile_site(server.host) as port:
        page = browser.new_page()
        try:
            page.goto(f"http://{site}:{port}/")
            page.wait_for_function("document.title === 'done'", timeout=PATIENCE_MS)
            framed = page.frame(name="framed")
            return page.evaluate("window.read"), framed.url if framed else ""
        finally:
            page.close()


@pytest.mark.parametrize(
    "site", ["evil.example", "127.0.0.1"], ids=["a site elsewhere", "another port of this machine"]
)
def test_a_hostile_page_changes_and_reads_nothing(browser: Any, guarded: Webserver, site: str):
    before = guarded.state()
    read, framed = attack(browser, guarded, site)
    assert guarded.state() == before == {"days": [], "cursor": None, "runs": 0}
    assert {name: text for name, text in read.items() if text} == {}
    assert framed.startswith("chrome-error://")


def test_without_the_guard_the_same_page_does_as_it_likes(browser: Any, unguarded: Webserver):
    """Else the test above shows nothing."""
    read, framed = attack(browser, unguarded, "evil.example")
    state = unguarded.state()
    assert set(state["days"]) == set(BY_PAGE)
    assert state["cursor"] == "{}"
    assert "Failure" in read["socket"]
    assert framed.startswith(unguarded.url)


def rebound(browser: Any, server: Webserver, day: str) -> tuple[int, str]:
    """A name of elsewhere that leads to the server: the page's status and text, after a mutation in its own origin."""
    page = browser.new_page()
    try:
        answer = page.goto(f"http://rebound.example:{server.port}/server_info")
        page.evaluate(
            """body => fetch("/graphql", {method: "POST", headers: {"Content-Type": "application/json"}, body})
                 .then(answer => answer.text())""",
            as_json(forge(day)),
        )
        return answer.status, answer.text()
    finally:
        page.close()


def test_a_name_that_is_made_to_lead_here_gets_nothing(browser: Any, guarded: Webserver, unguarded: Webserver):
    before = guarded.state()
    status, text = rebound(browser, guarded, "2025-02-11")
    assert status == 421
    assert text.startswith(f"Refused: The host 'rebound.example:{guarded.port}' is not this server's")
    assert guarded.state() == before
    status, text = rebound(browser, unguarded, "2025-02-11")
    assert (status, "dagster_version" in text) == (200, True)
    assert "2025-02-11" in unguarded.state()["days"]


def test_a_link_from_elsewhere_opens_the_ui(browser: Any, guarded: Webserver):
    page = browser.new_page()
    try:
        with hostile_site("127.0.0.1:9") as port:
            page.goto(f"http://evil.example:{port}/")
            page.evaluate("url => { location = url }", f"{guarded.url}/assets/daily_averages")
            page.get_by_role("button", name="Materialize").first.wait_for(timeout=PATIENCE_MS)
    finally:
        page.close()
