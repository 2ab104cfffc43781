"""A Metabase for tests: an HTTP server in memory that takes and answers what the published API says, and nothing else.

It follows the API reference and the schemas of Metabase 0.63: unknown and missing fields, unknown ids, archived cards
and missing sessions are refused as there. Where Metabase would pass over a mistake without a word (a filter that maps
to nothing, a variable that is not declared, tiles that overlap), this server refuses it too. It runs no queries.
"""

import json
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pymongo.uri_parser import parse_uri

from meter_assets_tests.metabase_schemas import SCHEMAS, Refusal, check, check_card, check_dashcards
from metering.settings import LOOPBACK

Json = dict[str, Any]

REDACTED = "**MetabasePass**"
WRITES = ("POST", "PUT")


class MetabaseServer:
    """State and behaviour of one Metabase.

    Args:
        starting: answers to /api/health that say it is still starting.
        version: its tag.
    """

    def __init__(self, starting: int = 0, version: str = "v0.63.19") -> None:
        self.starting = starting
        self.version = version
        self.setup_token: str | None = str(uuid.uuid4())
        self.users: dict[str, Json] = {}
        self.sessions: dict[str, str] = {}
        self.unreachable: set[str] = set()
        self.things: dict[str, dict[int, Json]] = {
            "database": {}, "collection": {}, "card": {}, "dashboard": {}
        }  # fmt: skip
        self.writes: list[tuple[str, str]] = []  # what has changed content, in order
        self.fail_after: int | None = None  # that many writes, then HTTP 500
        self.moved_to = ""
        self._next = {kind: 1 for kind in (*self.things, "dashcard")}
        self._lock = threading.Lock()

    def add_user(self, email: str, password: str, *, superuser: bool = True) -> None:
        """A user, made by somebody else; the first one ends the set-up."""
        self.users[email] = {"password": password, "is_superuser": superuser}
        self.setup_token = None

    def add(self, kind: str, **fields: Any) -> int:
        """A thing that somebody has made in Metabase."""
        return self._insert(kind, fields)["id"]

    def answer(self, method: str, path: str, query: Json, session: str | None, body: Any) -> tuple[int, Any]:
        """Answer one request: status and JSON (None: nothing, str: plain text)."""
        with self._lock:
            try:
                return self._answer(method, path, query, session, body)
            except Refusal as refusal:
                return refusal.status, refusal.body

    def _answer(self, method: str, path: str, query: Json, session: str | None, body: Any) -> tuple[int, Any]:
        for (verb, pattern), (is_public, handler) in self._routes().items():
            found = re.fullmatch(pattern, path)
            if verb != method or not found:
                continue
            if not is_public and session not in self.sessions:
                raise Refusal(401, "Unauthenticated")
            if method in WRITES and f"{method} {pattern}" in SCHEMAS:
                check(body, SCHEMAS[f"{method} {pattern}"])
            numbers = [int(each) for each in found.groups()]
            if method in WRITES and not is_public:
                self._count_write(method, path)
            return handler(*numbers, **({"body": body} if method in WRITES else {"query": query, "session": session}))
        raise Refusal(404, "API endpoint does not exist.")

    def _count_write(self, method: str, path: str) -> None:
        if self.fail_after is not None and len(self.writes) >= self.fail_after:
            raise Refusal(500, {"message": "out of order"})
        self.writes.append((method, path))

    def _routes(self) -> dict[tuple[str, str], tuple[bool, Callable[..., tuple[int, Any]]]]:
        return {
            ("GET", "/api/health"): (True, self._health),
            ("GET", "/api/session/properties"): (True, self._properties),
            ("POST", "/api/setup"): (True, self._setup),
            ("POST", "/api/session"): (True, self._login),
            ("DELETE", "/api/session"): (False, self._logout),
            ("GET", "/api/user/current"): (False, self._current_user),
            ("GET", "/api/database"): (False, self._databases),
            ("POST", "/api/database"): (False, self._add_database),
            ("PUT", r"/api/database/(\d+)"): (False, self._change_database),
            ("GET", "/api/collection"): (False, self._collections),
            ("POST", "/api/collection"): (False, self._add_collection),
            ("PUT", r"/api/collection/(\d+)"): (False, self._change_collection),
            ("GET", r"/api/collection/(\d+)/items"): (False, self._collection_items),
            ("POST", "/api/card"): (False, self._add_card),
            ("PUT", r"/api/card/(\d+)"): (False, self._change_card),
            ("POST", "/api/dashboard"): (False, self._add_dashboard),
            ("GET", r"/api/dashboard/(\d+)"): (False, self._show_dashboard),
            ("PUT", r"/api/dashboard/(\d+)"): (False, self._change_dashboard),
        }

    # Session and users

    def _health(self, **_: Any) -> tuple[int, Any]:
        if self.starting > 0:
            self.starting -= 1
            return 503, {"status": "initializing", "progress": 0.5}
        return 200, {"status": "ok"}

    def _properties(self, **_: Any) -> tuple[int, Any]:
        return 200, {
            "version": {"tag": self.version, "date": "2026-10-20", "hash": "0000000"},
            "has-user-setup": bool(self.users),
            "setup-token": self.setup_token,
        }

    def _setup(self, body: Json) -> tuple[int, Any]:
        if self.users:
            raise Refusal(403, "The /api/setup route can only be used to create the first user")
        if body["token"] != self.setup_token:
            raise Refusal(400, {"errors": {"token": "Token does not match the setup token."}})
        user = body["user"]
        if len(user["password"]) < 8:
            raise Refusal(
                400,
                {
                    "errors": {"user": {"password": "password is too common."}},
                    "specific-errors": {"user": {"password": [f"too common, received: {user['password']}"]}},
                },
            )
        self.add_user(user["email"], user["password"])
        return 200, {"id": self._begin_session(user["email"])}

    def _login(self, body: Json) -> tuple[int, Any]:
        user = self.users.get(body["username"])
        if not user or user["password"] != body["password"]:
            raise Refusal(401, {"errors": {"password": "did not match stored password"}})
        return 200, {"id": self._begin_session(body["username"])}

    def _begin_session(self, email: str) -> str:
        key = str(uuid.uuid4())
        self.sessions[key] = email
        return key

    def _logout(self, session: str, **_: Any) -> tuple[int, Any]:
        del self.sessions[session]
        return 204, None

    def _current_user(self, session: str, **_: Any) -> tuple[int, Any]:
        email = self.sessions[session]
        return 200, {"id": 1, "email": email, "is_superuser": self.users[email]["is_superuser"]}

    # Content

    def _insert(self, kind: str, fields: Json) -> Json:
        id_ = self._next[kind]
        self._next[kind] += 1
        thing = {"id": id_, "description": None, "archived": False, **fields}
        self.things[kind][id_] = thing
        return thing

    def _found(self, kind: str, id_: int | None) -> Json:
        if id_ not in self.things[kind]:
            raise Refusal(404, "Not found.")
        return self.things[kind][id_]

    def _databases(self, **_: Any) -> tuple[int, Any]:
        shown = [
            {**each, "details": {**each["details"], "conn-uri": REDACTED}} for each in self.things["database"].values()
        ]
        return 200, {"data": shown, "total": len(shown)}

    def _check_connection(self, body: Json) -> None:
        details = body["details"]
        uri = details.get("conn-uri", "")
        if body["engine"] != "mongo" or not details.get("use-conn-uri"):
            raise Refusal(400, {"errors": {"engine": "only connection strings of MongoDB are tried here"}})
        if not parse_uri(uri)["database"]:
            raise Refusal(400, {"message": "No database name specified in URI."})
        if uri in self.unreachable:
            raise Refusal(400, {"message": f"Timed out connecting to {uri}", "errors": {}})

    def _add_database(self, body: Json) -> tuple[int, Any]:
        self._check_connection(body)
        return 200, self._insert("database", body)

    def _change_database(self, id_: int, body: Json) -> tuple[int, Any]:
        database = self._found("database", id_)
        if "details" in body:
            self._check_connection({**database, **body})
        database.update(body)
        return 200, database

    def _collections(self, **_: Any) -> tuple[int, Any]:
        root = {"id": "root", "name": "Our analytics"}
        return 200, [root, *(each for each in self.things["collection"].values() if not each["archived"])]

    def _add_collection(self, body: Json) -> tuple[int, Any]:
        return 200, self._insert("collection", body)

    def _change_collection(self, id_: int, body: Json) -> tuple[int, Any]:
        collection = self._found("collection", id_)
        collection.update(body)
        return 200, collection

    def _collection_items(self, id_: int, query: Json, **_: Any) -> tuple[int, Any]:
        self._found("collection", id_)
        models = query.get("models", ["card", "dashboard"])
        if unknown := set(models) - {"card", "dashboard"}:
            raise Refusal(400, {"errors": {"models": f"unknown: {unknown}"}})
        items = [
            {**{name: each[name] for name in ("id", "name", "description", "collection_id")}, "model": kind}
            for kind in models
            for each in self.things[kind].values()
            if each["collection_id"] == id_ and not each["archived"]
        ]
        return 200, {"data": items, "total": len(items), "models": models}

    def _add_card(self, body: Json) -> tuple[int, Any]:
        self._check_card(body)
        return 200, self._insert("card", body)

    def _change_card(self, id_: int, body: Json) -> tuple[int, Any]:
        card = self._found("card", id_)
        self._check_card({**card, **body})
        card.update(body)
        return 200, card

    def _check_card(self, card: Json) -> None:
        self._found("database", card["dataset_query"]["database"])
        if card["collection_id"] is not None:
            self._found("collection", card["collection_id"])
        check_card(card)

    def _add_dashboard(self, body: Json) -> tuple[int, Any]:
        self._found("collection", body["collection_id"])
        return 200, self._insert("dashboard", {"parameters": [], "dashcards": [], "tabs": [], **body})

    def _show_dashboard(self, id_: int, **_: Any) -> tuple[int, Any]:
        dashboard = self._found("dashboard", id_)
        cards = self.things["card"]
        shown = [
            {**tile, "dashboard_id": id_, "card": cards.get(tile.get("card_id") or 0), "series": tile.get("series", [])}
            for tile in dashboard["dashcards"]
            if not cards.get(tile.get("card_id") or 0, {}).get("archived")
        ]
        return 200, {**dashboard, "dashcards": shown}

    def _change_dashboard(self, id_: int, body: Json) -> tuple[int, Any]:
        dashboard = self._found("dashboard", id_)
        merged = {**dashboard, **body}
        if "dashcards" in body:
            check_dashcards(merged, self.things["card"], {tile["id"] for tile in dashboard["dashcards"]})
            merged["dashcards"] = [self._numbered(tile) for tile in merged["dashcards"]]
        dashboard.update(merged)
        return 200, self._show_dashboard(id_)[1]

    def _numbered(self, tile: Json) -> Json:
        if tile["id"] > 0:
            return tile
        self._next["dashcard"] += 1
        return {**tile, "id": self._next["dashcard"]}


@contextmanager
def serving(server: MetabaseServer) -> Iterator[str]:
    """The server on a port of the loopback; its URL."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet: two wait 40 ms for each other

        def _take(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            raw = self.rfile.read(length)
            address = urlsplit(self.path)
            session = self.headers.get("X-Metabase-Session")
            body = json.loads(raw) if raw else None
            status, answer = server.answer(self.command, address.path, parse_qs(address.query), session, body)
            plain = answer if isinstance(answer, str) else None
            payload = b"" if answer is None else (plain or json.dumps(answer)).encode()
            self.send_response(301 if server.moved_to else status)
            if server.moved_to:
                self.send_header("Location", server.moved_to)
            self.send_header("Content-Type", "text/plain" if plain else "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        do_GET = do_POST = do_PUT = do_DELETE = _take  # noqa: N815 - http.server's names

        def log_message(self, format: str, *args: Any) -> None:
            pass

    http = ThreadingHTTPServer((LOOPBACK, 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://{LOOPBACK}:{http.server_address[1]}"
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
