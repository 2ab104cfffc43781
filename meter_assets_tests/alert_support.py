"""Helpers of the alert tests: fault documents, a webhook receiver, a mail server. No fixtures here."""

import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller
from pymongo.database import Database

from meter_assets_tests.support import free_ports
from metering.reading import reading_id
from metering.settings import LOOPBACK
from metering.store import FAULTS

NOW = datetime(2024, 5, 27, 12, 0, tzinfo=UTC)
SECRET = "a-key-of-the-test"  # noqa: S105 - it opens nothing


def minutes(count: float) -> timedelta:
    return timedelta(minutes=count)


def fault(
    device: str,
    at: datetime,
    *,
    stored_at: datetime = NOW,
    severity: str = "warning",
    rule: str = "above_bound",
    explanation: str = "too much",
) -> dict[str, Any]:
    """A document as ingest stores it in `iot-abnormal`."""
    return {
        "_id": reading_id(at, device),
        "device_id": device,
        "timestamp": at,
        "meter_type": "electricity",
        "severity": severity,
        "rules": [{"id": rule, "version": 1, "severity": severity, "explanation": explanation}],
        "payload": "{}",
        "received_at": at,
        "source": {"topic": "iot-meter", "partition": 0, "offset": 0},
        "stored_at": stored_at,
    }


def store(database: Database, *documents: dict[str, Any]) -> None:
    """Store faults."""
    database[FAULTS].insert_many(list(documents))


class Receiver:
    """A webhook receiver: refuses the first `failures` posts with 503, then takes what is signed rightly."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.posts: list[tuple[str, int]] = []  # delivery id, status answered
        self.accepted: list[list[dict[str, Any]]] = []
        self._lock = threading.Lock()

    @property
    def ids(self) -> list[str]:
        """Id of each alert accepted, in order."""
        return [alert["id"] for alerts in self.accepted for alert in alerts]

    def take(self, headers: Any, body: bytes) -> int:
        """Judge one post; returns the status."""
        expected = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
        with self._lock:
            if headers["X-Meters-Signature"] != f"sha256={expected}":
                status = 401
            elif len(self.posts) < self.failures:
                status = 503
            else:
                status = 204
                self.accepted.append(json.loads(body)["alerts"])
            self.posts.append((headers["X-Meters-Delivery"], status))
            return status


@contextmanager
def receiving(failures: int = 0) -> Iterator[tuple[str, Receiver]]:
    """A receiver on the loopback, with its URL."""
    receiver = Receiver(failures)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # noqa: N802 - the name is http.server's
            status = receiver.take(self.headers, self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{LOOPBACK}:{server.server_address[1]}/hook/token-in-the-path", receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Mailbox:
    """What a mail server does with messages: refuses the first `failures`, keeps the others."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.tries = 0
        self.mails: list[Any] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        """Take or refuse one message."""
        self.tries += 1
        if self.tries <= self.failures:
            return "451 try again later"
        self.mails.append(envelope)
        return "250 OK"


@contextmanager
def mail_server(mailbox: Mailbox, **options: Any) -> Iterator[int]:
    """A real SMTP server on the loopback, with its port."""
    (port,) = free_ports(1)
    controller = Controller(mailbox, hostname=LOOPBACK, port=port, **options)
    controller.start()
    try:
        yield port
    finally:
        controller.stop()
