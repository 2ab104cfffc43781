"""The guard by itself: which requests reach an application behind it, and what the others are answered."""

import asyncio
from typing import Any

import pytest

from local_stack.dagster_webserver import guarded
from metering.errors import MetersError
from metering.settings import Settings, load_settings
from webguard import AllowedHosts

PAGE = "127.0.0.1:3000"
JSON = {"content-type": "application/json"}


def call(
    method: str, target: str, headers: list[tuple[str, str]], *, kind: str = "http", **settings: str
) -> list[dict[str, Any]]:
    """What the guard sends for a request; the application behind it answers 200."""
    sent: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if kind == "websocket":
            await send({"type": "websocket.accept"})
            return
        own = [(b"X-Frame-Options", b"ALLOWALL"), (b"content-security-policy", b"object-src 'none'")]
        await send({"type": "http.response.start", "status": 200, "headers": own})
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> Any:
        return {"type": f"{kind}.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    path, _, query = target.partition("?")
    scope = {
        "type": kind,
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers],
    }
    asyncio.run(guarded(app, Settings(**settings))(scope, receive, send))  # pyright: ignore[reportArgumentType]
    return sent


def status(method: str = "GET", target: str = "/", host: str | None = PAGE, **headers: str) -> int:
    pairs = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return call(method, target, [*pairs, *([("host", host)] if host is not None else [])])[0]["status"]


@pytest.mark.parametrize(
    "host", [PAGE, "localhost:3000", "LOCALHOST", "[::1]:3000", "127.0.0.1", "localhost:8080"], ids=str
)
def test_it_answers_for_the_loopback_at_any_port(host: str):
    assert status(host=host) == 200


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:3000", "localhost.evil.example:3000", "127.0.0.1.evil.example", "localhost."),
        *("0.0.0.0:3000", "127.0.0.2:3000", "2130706433:3000", "127.1:3000", "[::]:3000", "[::ffff:127.0.0.1]:3000"),
        *(
            "",
            ":3000",
            "localhost:",
            "localhost:x",
            "localhost:3000:3000",
            "a@localhost:3000",
            "localhost/x",
            "lócalhost",
        ),
        "localhost, evil.example",
        None,
    ],
    ids=str,
)
def test_any_other_host_is_refused(host: str | None):
    assert status(host=host) == 421


def test_a_host_that_is_sent_twice_is_refused():
    assert call("GET", "/", [("host", PAGE), ("host", "evil.example")])[0]["status"] == 421


@pytest.mark.parametrize(
    ("host", "origin", "expected"),
    [
        ("dagster.example.org", "https://dagster.example.org", 200),  # METERS_UI_URL's
        ("127.0.0.1:3000", "https://dagster.example.org", 200),  # behind a proxy that names its own target as host
        ("127.0.0.1:3000", "http://dagster.example.org", 403),
        ("127.0.0.1:3000", "https://dagster.example.org:8443", 403),
        ("10.0.0.5:3000", "http://10.0.0.5:3000", 200),  # METERS_UI_HOSTS
        ("10.0.0.5:3001", "http://10.0.0.5:3001", 421),
        ("ops", "https://ops", 200),
        ("ops:8443", "https://ops:8443", 200),
        ("127.0.0.1:3000", "https://ops", 200),
        ("127.0.0.1:3000", "https://ops:8443", 403),
    ],
)
def test_hosts_that_the_settings_name_are_answered_and_so_are_their_pages(host: str, origin: str, expected: int):
    settings = {"ui_url": "https://dagster.example.org/", "ui_hosts": "10.0.0.5:3000, ops"}
    assert call("GET", "/", [("host", host), ("origin", origin)], **settings)[0]["status"] == expected


@pytest.mark.parametrize(
    ("host", "origin", "expected"),
    [
        (PAGE, f"http://{PAGE}", 200),
        ("localhost", "http://localhost", 200),
        ("localhost:443", "https://localhost", 200),
        (PAGE, "http://127.0.0.1:8000", 403),  # another program's page on the same machine
        (PAGE, "http://localhost:3000", 403),
        (PAGE, "http://127.0.0.1", 403),
        (PAGE, "null", 403),
        (PAGE, "", 403),
        (PAGE, "https://evil.example", 403),
        (PAGE, f"http://{PAGE}.evil.example", 403),
        (PAGE, f"file://{PAGE}", 403),
        (PAGE, f"chrome-extension://{PAGE}", 403),
        (PAGE, f"http://{PAGE}/", 403),
        (PAGE, f"http://evil@{PAGE}", 403),
    ],
)
def test_pages_of_its_own_may_use_it_and_no_others(host: str, origin: str, expected: int):
    for method, headers in (("GET", {}), ("POST", JSON)):
        answer = call(method, "/graphql", [("host", host), ("origin", origin), *headers.items()])
        assert answer[0]["status"] == expected
    answer = call("GET", "/graphql", [("host", host), ("origin", origin)], kind="websocket")
    assert answer[0]["type"] == ("websocket.accept" if expected == 200 else "websocket.close")


def test_of_two_origins_both_must_be_its_own():
    answer = call("GET", "/", [("host", PAGE), ("origin", f"http://{PAGE}"), ("origin", "https://evil.example")])
    assert answer[0]["status"] == 403


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, 200),  # a script
        ({"sec_fetch_site": "none", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}, 200),  # typed
        ({"sec_fetch_site": "same-origin", "sec_fetch_mode": "cors", "sec_fetch_dest": "empty"}, 200),
        ({"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}, 200),  # a link
        ({"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "iframe"}, 403),
        ({"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "object"}, 403),
        ({"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors", "sec_fetch_dest": "image"}, 403),
        ({"sec_fetch_site": "same-site", "sec_fetch_mode": "no-cors", "sec_fetch_dest": "script"}, 403),
        ({"sec_fetch_site": "same-site"}, 403),
    ],
)
def test_another_sites_page_may_link_to_it_and_nothing_else(headers: dict[str, str], expected: int):
    assert status(**headers) == expected


def test_a_link_cannot_post():
    """A browser sends an Origin with it; nothing here depends on that."""
    headers = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"}
    assert status("POST", "/graphql", content_type="application/json", **headers) == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "X"])
@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("application/json", 200),
        ("Application/JSON ; charset=utf-8", 200),
        ("text/plain", 415),
        ("text/plain;charset=application/json", 415),
        ("text/plain, application/json", 415),
        ("application/jsonp", 415),
        ("application/graphql", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("", 415),
    ],
)
def test_what_may_change_something_has_a_json_body(method: str, content_type: str, expected: int):
    assert status(method, "/report_asset_check/x", content_type=content_type) == expected


def test_a_body_without_a_type_or_with_two_is_refused():
    assert status("POST", "/graphql") == 415
    two = [("host", PAGE), ("content-type", "application/json"), ("content-type", "text/plain")]
    assert call("POST", "/graphql", two)[0]["status"] == 415


@pytest.mark.parametrize(
    ("method", "target", "expected"),
    [
        ("GET", "/graphql", 200),
        ("GET", "/graphql?query={version}", 405),
        ("HEAD", "/graphql?query={version}", 405),
        ("GET", "/graphql/?query={version}", 405),
        ("GET", "/prefix/graphql?query={version}", 405),
        ("GET", "/assets/daily_averages?view=checks", 200),
        ("GET", "/notebook?path=/x.ipynb", 403),
        ("GET", "/dagit/notebook?path=/x.ipynb", 403),
    ],
)
def test_routes_of_dagsters_webserver(method: str, target: str, expected: int):
    assert status(method, target, accept="text/html") == expected


def test_a_refusal_is_one_line_of_plain_text_that_names_the_setting():
    start, body = call("GET", "/", [("host", "<script>\x1b[1m\xe9" + "x" * 500)])
    headers = dict(start["headers"])
    assert headers[b"content-type"] == b"text/plain; charset=utf-8"
    assert headers[b"x-content-type-options"] == b"nosniff"
    text = body["body"].decode("ascii")
    assert text.startswith("Refused: The host '<script>\\x1b[1m\\xe9xxx")
    assert text.endswith("add it to METERS_UI_HOSTS\n")
    assert text.count("\n") == 1
    assert len(text) < 250
    (start, body) = call("GET", "/graphql?query={version}", [("host", PAGE)])
    assert dict(start["headers"])[b"allow"] == b"POST"
    assert b"POST" in body["body"]


def test_every_answer_forbids_frames_beside_the_applications_own_policy():
    (start, _) = call("GET", "/", [("host", PAGE)])
    framing = [value for name, value in start["headers"] if name.lower() == b"x-frame-options"]
    policies = [value for name, value in start["headers"] if name == b"content-security-policy"]
    assert framing == [b"DENY"]
    assert policies == [b"object-src 'none'", b"frame-ancestors 'none'"]


@pytest.mark.parametrize("names", ["https://evil.example", "*", "a b", "host:port", "host/path"])
def test_the_setting_takes_host_names_only(names: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("METERS_UI_HOSTS", names)
    load_settings.cache_clear()
    try:
        with pytest.raises(MetersError, match="METERS_UI_HOSTS is not usable: .* is no host"):
            load_settings()
    finally:
        monkeypatch.undo()
        load_settings.cache_clear()
    with pytest.raises(ValueError, match="a host is a name like"):
        AllowedHosts(names=[names])
