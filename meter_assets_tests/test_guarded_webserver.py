"""Dagster's real webserver behind the guard, asked as other pages, other hosts, scripts and its own UI ask it."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin, Subprotocol

from meter_assets_tests.web_support import GUARDED, OPEN, SELECTOR, Webserver, as_json, forge, silence, webserver

UI_URL = "https://meters.example.org"
EVIL = "https://evil.example"
DAY = "2025-02-01"
JSON = ("Content-Type", "application/json")
MUTATION = forge(DAY)
IN_URL = f"/graphql?query={quote(MUTATION)}"
REPORT = f"/report_asset_materialization/daily_averages?partition={DAY}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Webserver]:
    home = tmp_path_factory.mktemp("guarded")
    with webserver(GUARDED, home, ui_url=UI_URL, ui_hosts="10.1.2.3:3000") as running:
        yield running


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Webserver]:
    with webserver(OPEN, tmp_path_factory.mktemp("open")) as running:
        yield running


HOSTILE = {
    # name: method, target, headers, body, status of the guarded one
    "mutation by GET": ("GET", IN_URL, [], "", 405),
    "mutation by GET, as a page": ("GET", IN_URL, [("Accept", "text/html")], "", 405),
    "mutation by HEAD": ("HEAD", IN_URL, [], "", 405),
    "query by GET": ("GET", "/graphql?query={version}", [], "", 405),
    "sensor's cursor by GET": ("GET", f"/graphql?query={quote(silence())}", [], "", 405),
    "text/plain, mutation in the URL": ("POST", IN_URL, [("Content-Type", "text/plain")], "x", 415),
    "text/plain that names JSON": (
        *("POST", "/graphql", [("Content-Type", "text/plain;charset=application/json")], as_json(MUTATION)),
        415,
    ),
    "a form": ("POST", IN_URL, [("Content-Type", "application/x-www-form-urlencoded")], "a=b", 415),
    "a form of parts": ("POST", IN_URL, [("Content-Type", "multipart/form-data; boundary=x")], "--x--", 415),
    "no type": ("POST", IN_URL, [], "", 415),
    "application/graphql": ("POST", "/graphql", [("Content-Type", "application/graphql")], MUTATION, 415),
    "foreign Origin": ("POST", "/graphql", [JSON, ("Origin", EVIL)], as_json(MUTATION), 403),
    "null Origin": ("POST", "/graphql", [JSON, ("Origin", "null")], as_json(MUTATION), 403),
    "Origin of another port": ("POST", "/graphql", [JSON, ("Origin", "http://127.0.0.1:1")], as_json(MUTATION), 403),
    "no Origin, foreign site": ("POST", "/graphql", [JSON, ("Sec-Fetch-Site", "same-site")], as_json(MUTATION), 403),
    "foreign Host": ("POST", "/graphql", [JSON, ("Host", "evil.example")], as_json(MUTATION), 421),
    "foreign Host, and its page": (
        *("POST", "/graphql", [JSON, ("Host", "evil.example:80"), ("Origin", "http://evil.example")]),
        *(as_json(MUTATION), 421),
    ),
    "Host that begins well": ("POST", "/graphql", [JSON, ("Host", "127.0.0.1.evil.example")], as_json(MUTATION), 421),
    "another loopback address": ("POST", "/graphql", [JSON, ("Host", "127.0.0.2:3000")], as_json(MUTATION), 421),
    "report by a form": ("POST", REPORT, [], "", 415),
    "report from a page": ("POST", REPORT, [JSON, ("Origin", EVIL)], "{}", 403),
    "report of a check": ("POST", "/report_asset_check/daily_averages?check_name=drift&passed=true", [], "", 415),
    "report of an observation": ("POST", f"/report_asset_observation/daily_averages?partition={DAY}", [], "", 415),
    "a script's source": ("GET", "/server_info", [("Sec-Fetch-Site", "cross-site")], "", 403),
    "read by a page": ("GET", "/server_info", [("Origin", EVIL)], "", 403),
    "preflight": ("OPTIONS", "/graphql", [("Origin", EVIL), ("Access-Control-Request-Method", "POST")], "", 403),
    "in a frame": (
        *("GET", "/runs"),
        [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "iframe")],
        *("", 403),
    ),
    "a notebook of the disk": ("GET", "/notebook?repoLocName=meter_assets&path=/tmp/x.ipynb", [], "", 403),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_request_changes_nothing_and_is_answered_by_one_line(server: Webserver, name: str):
    method, target, headers, body, status = HOSTILE[name]
    before = server.state()
    answer = server.send(method, target, headers, body)
    text = answer.read().decode()
    assert (answer.status, server.state()) == (status, before), text
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    if method != "HEAD":
        assert text.startswith("Refused: ")
        assert text.endswith("\n")
        assert text.count("\n") == 1
    _assert_unframed(answer.headers)


def test_without_the_guard_the_same_requests_are_executed(open_server: Webserver):
    """Else the test above shows nothing. Those that only read, embed or ask leave are not in this list."""
    changing = [name for name in HOSTILE if HOSTILE[name][1] == IN_URL or HOSTILE[name][3] == as_json(MUTATION)]
    changing += ["report by a form", "report from a page", "application/graphql"]
    executed = []
    for name in changing:
        method, target, headers, body, _ = HOSTILE[name]
        before = open_server.state()["days"]
        open_server.send(method, target, headers, body).read()
        if open_server.state()["days"] != before:
            executed.append(name)
    assert sorted(set(changing) - set(executed)) == ["mutation by GET, as a page", "mutation by HEAD"]
    open_server.send(*HOSTILE["sensor's cursor by GET"][:4]).read()
    assert open_server.state()["cursor"] == "{}"


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Origin", "http://{host}")],
        [("Host", "localhost:9999"), ("Origin", "http://localhost:9999")],
        [("Host", "[::1]:3000")],
        [("Origin", UI_URL)],
        [("Host", "meters.example.org"), ("Origin", UI_URL), ("Sec-Fetch-Site", "same-origin")],
        [("Host", "10.1.2.3:3000"), ("Origin", "http://10.1.2.3:3000")],
    ],
    ids=["script", "own page", "ssh -L", "IPv6", "proxy that hides the host", "proxy", "METERS_UI_HOSTS"],
)
def test_its_own_pages_and_scripts_work_as_before(server: Webserver, headers: list[tuple[str, str]]):
    filled = [(name, value.format(host=server.host)) for name, value in headers]
    before = server.state()["days"]
    answer = server.send("POST", "/graphql", [JSON, *filled], as_json(forge("2025-03-01")))
    assert answer.status == 200, answer.read()
    assert len(server.state()["days"]) == len(before) + 1
    _assert_unframed(answer.headers)


def test_pages_assets_reports_and_graphiql_are_served(server: Webserver):
    link = [("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document")]
    page = server.send("GET", "/assets/daily_averages?view=partitions", link)
    text = page.read().decode()
    assert page.status == 200
    _assert_unframed(page.headers)
    assert any("script-src" in policy for policy in page.headers.get_all("Content-Security-Policy", []))
    script = next(part for part in text.split('"') if part.endswith(".js"))
    asset = server.send("GET", script, [("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Mode", "no-cors")])
    assert asset.status == 200
    assert len(asset.read()) > 1000
    graphiql = server.send("GET", "/graphql", [("Accept", "text/html")])
    assert graphiql.status == 200
    assert b"GraphiQL" in graphiql.read()
    report = server.send("POST", REPORT.replace(DAY, "2025-04-01"), [JSON], "{}")
    assert (report.status, report.read()) == (200, b"{}")
    assert "2025-04-01" in server.state()["days"]


def _assert_unframed(headers: Any) -> None:
    assert headers.get_all("X-Frame-Options") == ["DENY"]
    assert "frame-ancestors 'none'" in headers.get_all("Content-Security-Policy")
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


def _socket(server: Webserver, *, host: str | None = None, origin: str | None = None) -> ClientConnection:
    return connect(
        f"ws://{host or server.host}/graphql",
        sock=socket.create_connection(("127.0.0.1", server.port), timeout=30),
        origin=Origin(origin) if origin else None,
        subprotocols=[Subprotocol("graphql-ws")],
        proxy=None,
    )


def _subscribed(connection: ClientConnection) -> str:
    """The first answer to a subscription to a run that is not there: data that says so."""
    query = 'subscription { pipelineRunLogs(runId: "none") { __typename } }'
    connection.send('{"type": "connection_init"}')
    connection.send(f'{{"type": "start", "id": "1", "payload": {as_json(query)}}}')
    assert "connection_ack" in str(connection.recv(30))
    return str(connection.recv(30))


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        (None, EVIL, 403),
        (None, "null", 403),
        (None, "http://127.0.0.1:1", 403),
        ("evil.example", None, 421),
        ("evil.example", "http://evil.example", 421),
    ],
)
def test_a_foreign_websocket_is_refused(
    server: Webserver, open_server: Webserver, host: str | None, origin: str | None, status: int
):
    with pytest.raises(InvalidStatus) as refused:
        _socket(server, host=host, origin=origin)
    assert refused.value.response.status_code == status
    assert (refused.value.response.body or b"").startswith(b"Refused: ")
    with _socket(open_server, host=host, origin=origin) as connection:  # Dagster's own answers it
        assert "Failure" in _subscribed(connection)


@pytest.mark.parametrize("origin", [None, "http://{host}", UI_URL])
def test_its_own_websocket_is_served(server: Webserver, origin: str | None):
    with _socket(server, origin=origin and origin.format(host=server.host)) as connection:
        assert "Failure" in _subscribed(connection)


OF_SPARK = {
    "spark.driver.extraJavaOptions": "-Dx=y",
    "spark.jars": "http://evil.example/x.jar",
    "spark.plugins": "evil.Plugin",
    "spark.remote": "sc://evil.example",
}


@pytest.mark.parametrize("option", OF_SPARK)
@pytest.mark.parametrize("job", ["daily_readings_job", "late_readings_job", "__ASSET_JOB"])
def test_a_run_with_options_of_spark_is_not_launched(server: Webserver, job: str, option: str):
    spark = {"resources": {"pyspark": {"config": {"spark_config": {option: OF_SPARK[option]}}}}}
    days = {"ops": {"recompute_days": {"config": {"days": [DAY]}}}} if job == "late_readings_job" else {}
    assert option in _refused(server, job, spark | days)


def test_a_run_without_them_is_launched(server: Webserver):
    before = server.state()["runs"]
    launched = _launch(server, "late_readings_job", {"ops": {"recompute_days": {"config": {"days": [DAY]}}}})
    assert launched["__typename"] == "LaunchRunSuccess", launched
    assert server.state()["runs"] == before + 1


def _launch(server: Webserver, job: str, run_config: dict[str, Any]) -> dict[str, Any]:
    selector = {**SELECTOR, "jobName": job}
    if job == "__ASSET_JOB":
        selector["assetSelection"] = [{"path": ["daily_averages"]}]  # pyright: ignore[reportArgumentType]
    return server.ask(
        """mutation($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) { __typename
             ... on RunConfigValidationInvalid { errors { message } } ... on PythonError { message } } }""",
        params={
            "selector": selector,
            "runConfigData": run_config,
            "executionMetadata": {"tags": [{"key": "dagster/partition", "value": DAY}]},
        },
    )["launchPipelineExecution"]


def _refused(server: Webserver, job: str, run_config: dict[str, Any]) -> str:
    before = server.state()
    launched = _launch(server, job, run_config)
    assert launched["__typename"] == "RunConfigValidationInvalid", launched
    assert server.state() == before
    return " ".join(error["message"] for error in launched["errors"])


def test_a_wrong_setting_ends_it_in_one_line(tmp_path: Path):
    ended = subprocess.run(
        [sys.executable, "-m", GUARDED, "--empty-workspace"],
        env={**os.environ, "METERS_UI_HOSTS": "http://x", "DAGSTER_HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: Setting METERS_UI_HOSTS is not usable: 'http://x' is no host")
