"""An ASGI wrapper for an application that has no login, on a machine whose browser also shows other pages.

A page on the web cannot read what another server answers, but it can send it requests: by a picture, a form, a script,
a WebSocket, or in a frame with the user's own clicks. The wrapper refuses what comes from a page that is not the
application's own. Programs send no Origin, so scripts work as before.

- Host: only names that are meant, so that no foreign name can be pointed here (DNS rebinding): 421.
- Origin, on HTTP and at a WebSocket's handshake: the page's own host only; `null` is none: 403.
- Sec-Fetch-Site, where no Origin is sent: another site may open a page in a tab, and embed or load nothing: 403.
- Whatever may change something has a JSON body, which no form can send: 415.
- Every answer forbids to be framed or embedded elsewhere.
"""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

from webguard.hosts import AllowedHosts, Authority

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

SETTING = "METERS_UI_HOSTS"

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
OWN_SITES = frozenset({"same-origin", "none"})
"""Sec-Fetch-Site of the application's own pages, and of what the user opened. Another port is `same-site`."""

LONGEST_QUOTE = 100

ANSWER_HEADERS = {
    b"x-frame-options": b"DENY",
    b"x-content-type-options": b"nosniff",
    b"cross-origin-resource-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
}
FRAMING_POLICY = (b"content-security-policy", b"frame-ancestors 'none'")
"""Beside a policy of the application's own: a browser obeys both."""


@dataclass(frozen=True)
class Refusal:
    """An answer in the application's place.

    Args:
        status: of HTTP.
        reason: one line of plain text: what is refused, and what to do about it.
        allow: value of the header Allow, which 405 must have.
    """

    status: int
    reason: str
    allow: str | None = None


class Headers:
    """The headers of a request; a header that is sent twice is kept twice."""

    def __init__(self, scope: Scope) -> None:
        self._pairs = [(name.lower(), value.decode("latin-1").strip()) for name, value in scope["headers"]]

    def all(self, name: str) -> list[str]:
        """Every value of the header."""
        wanted = name.encode()
        return [value for each, value in self._pairs if each == wanted]

    def get(self, name: str) -> str:
        """The header's value; empty where it is not sent, or not exactly once."""
        values = self.all(name)
        return values[0] if len(values) == 1 else ""


Rule = Callable[[Scope, Headers], Refusal | None]


class Guard:
    """The application, closed to other pages.

    Args:
        app: an ASGI application.
        hosts: which hosts it answers for.
        rules: what else is to be refused in HTTP requests that have passed; None: nothing.
    """

    def __init__(self, app: Application, hosts: AllowedHosts, rules: Iterable[Rule] = ()) -> None:
        self._app = app
        self._hosts = hosts
        self._rules = [_json_only, *rules]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or have the application answer it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
        elif refusal := self._refusal(scope):
            await (_refuse if scope["type"] == "http" else _refuse_socket)(refusal, scope, receive, send)
        else:
            await self._app(scope, receive, _closing(send))

    def _refusal(self, scope: Scope) -> Refusal | None:
        headers = Headers(scope)
        host = Authority.of(headers.get("host"))
        if host is None or not self._hosts.has(host):
            named = _quoted(headers.get("host"))
            return Refusal(421, f"The host {named} is not this server's. If it is meant, add it to {SETTING}")
        origins = headers.all("origin")
        for origin in origins:
            if not self._hosts.may_use(origin, host):
                page = _quoted(origin)
                return Refusal(
                    403, f"Pages of {page} may not use this server. If they may, add their host to {SETTING}"
                )
        if not origins and not _is_own_or_opened(scope, headers):
            return Refusal(
                403,
                "A page of another site may link to this server, but not load, embed or send anything. Open it in a "
                f"tab of its own; {SETTING} names the hosts that it answers for",
            )
        rules = self._rules if scope["type"] == "http" else ()
        return next((refusal for rule in rules if (refusal := rule(scope, headers))), None)


def _is_own_or_opened(scope: Scope, headers: Headers) -> bool:
    """Is this a program's request, one of the application's own pages, or a page that a link or the user opens?"""
    sites = headers.all("sec-fetch-site")
    if all(site in OWN_SITES for site in sites):
        return True
    is_tab = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return is_tab and scope["type"] == "http" and scope["method"] in SAFE_METHODS


def _json_only(scope: Scope, headers: Headers) -> Refusal | None:
    if scope["method"] in SAFE_METHODS:
        return None
    content_type = headers.get("content-type")
    # The type alone: browsers send text/plain;charset=application/json without asking the server.
    if content_type.partition(";")[0].strip().lower() == "application/json":
        return None
    return Refusal(415, f"Content type {_quoted(content_type)} is refused. Send application/json")


def _quoted(text: str) -> str:
    return ascii(text[:LONGEST_QUOTE])


async def _refuse(refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    await _answer(refusal, _closing(send), "http.response")


async def _refuse_socket(refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    if "websocket.http.response" in scope.get("extensions", {}):
        await _answer(refusal, _closing(send), "websocket.http.response")
    else:
        await send({"type": "websocket.close", "code": 1008})  # before it is accepted: the server answers 403


async def _answer(refusal: Refusal, send: Send, kind: str) -> None:
    body = f"Refused: {refusal.reason}\n".encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    if refusal.allow:
        headers.append((b"allow", refusal.allow.encode()))
    await send({"type": f"{kind}.start", "status": refusal.status, "headers": headers})
    await send({"type": f"{kind}.body", "body": body})


def _closing(send: Send) -> Send:
    """Send answers that no other page may frame or embed."""

    async def closed(message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.http.response.start"):
            kept = [(name, value) for name, value in message.get("headers", ()) if name.lower() not in ANSWER_HEADERS]
            message = {**message, "headers": [*kept, *ANSWER_HEADERS.items(), FRAMING_POLICY]}
        await send(message)

    return closed
