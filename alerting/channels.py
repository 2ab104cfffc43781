"""The channels: log, webhook and e-mail. Each sends a digest of alerts once; trying again is up to digests.py.

What a channel says about a failure is stored and shown: it names the server, never an address with its token, a login
or what the server answered.
"""

import hashlib
import hmac
import json
import logging
import smtplib
import ssl
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime
from email.message import EmailMessage
from typing import Any, Protocol
from urllib.parse import urlsplit

import requests
from pydantic import SecretStr

from alerting.alerts import Document
from metering.errors import MetersError
from metering.reading import iso_utc
from metering.settings import Settings

CONNECT_SECONDS = 5
ANSWER_SECONDS = 15

MAX_LINES = 200
"""Alerts spelled out in a mail or in the log; the others are counted, and `meters alerts list` has them."""

LOG = logging.getLogger("meters.alerts")


class ChannelError(Exception):
    """The channel did not take the digest; worth another try. The message is one line without secrets."""


class Channel(Protocol):
    """Where alerts go."""

    @property
    def name(self) -> str:
        """Its name in METERS_ALERT_CHANNELS."""
        ...

    def send(self, delivery: str, alerts: Sequence[Document]) -> None:
        """Send a digest.

        Args:
            delivery: id of the digest, the same at every try.
            alerts: documents of `iot.alerts`, at least one.

        Raises:
            ChannelError: it was not taken.
        """
        ...


def chosen_channels(settings: Settings) -> list[Channel]:
    """The channels of METERS_ALERT_CHANNELS.

    Raises:
        MetersError: one lacks a setting that it needs.
    """
    return [_CHANNELS[name](settings) for name in settings.channels]


def _required(channel: str, **values: Any) -> None:
    for name, value in values.items():
        if not value:
            raise MetersError(
                f"The alert channel {channel} needs METERS_{name.upper()}",
                fix="Set it, or take the channel out of METERS_ALERT_CHANNELS",
            )


def _secret(value: SecretStr | None) -> str:
    return value.get_secret_value() if value else ""


def public_form(alert: Document) -> Document:
    """The alert as JSON for others: what it tells, not who has been told."""
    names = ("short_id", "kind", "subject", "severity", "text", "details", "created_at")
    return _plain_json({"id": alert["_id"], **{name: alert[name] for name in names}})


def _plain_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain_json(each) for key, each in value.items()}
    return iso_utc(value) if isinstance(value, datetime) else value


def signature(secret: str, body: bytes) -> str:
    """Value of X-Meters-Signature: `sha256=<hex HMAC-SHA256 of the body>`."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def _summary(alerts: Sequence[Document]) -> str:
    kinds = Counter(alert["kind"].replace("_", " ") for alert in alerts)
    noun = "alert" if len(alerts) == 1 else "alerts"
    return f"{len(alerts):,} {noun}: " + ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())


def _lines(alerts: Sequence[Document]) -> list[str]:
    lines = [f"{alert['short_id']}  {alert['severity']:8}  {alert['text']}" for alert in alerts[:MAX_LINES]]
    if len(alerts) > MAX_LINES:
        lines.append(f"and {len(alerts) - MAX_LINES:,} more: meters alerts list")
    return lines


class LogChannel:
    """A line an alert in the log of whichever process sends: for the sensor, that of the code server."""

    name = "log"

    def __init__(self, settings: Settings) -> None:
        pass  # there is nothing to choose

    def send(self, delivery: str, alerts: Sequence[Document]) -> None:
        """Log a warning for each alert."""
        for line in _lines(alerts):
            LOG.warning("%s", line)


class WebhookChannel:
    """A signed JSON POST of `{"alerts": [...]}`. Any answer but 2xx is a failure; redirects are not followed."""

    name = "webhook"

    def __init__(self, settings: Settings) -> None:
        _required(self.name, webhook_url=settings.webhook_url, webhook_secret=settings.webhook_secret)
        self._url = _secret(settings.webhook_url)
        self._secret = _secret(settings.webhook_secret)
        self._host = urlsplit(self._url).hostname

    def send(self, delivery: str, alerts: Sequence[Document]) -> None:
        """Post the digest; see Channel."""
        body = json.dumps({"alerts": [public_form(alert) for alert in alerts]}, separators=(",", ":")).encode()
        headers = {
            "Content-Type": "application/json",
            "X-Meters-Signature": signature(self._secret, body),
            "X-Meters-Delivery": delivery,
        }
        try:
            # The answer's body is of no interest: it is not read, so that no receiver can send without an end.
            with requests.post(
                self._url,
                data=body,
                headers=headers,
                timeout=(CONNECT_SECONDS, ANSWER_SECONDS),
                allow_redirects=False,
                stream=True,
            ) as answer:
                status = answer.status_code
        except requests.RequestException as error:
            raise ChannelError(f"no answer from {self._host} ({type(error).__name__})") from None
        if not 200 <= status < 300:
            raise ChannelError(f"{self._host} answered {status}")


class EmailChannel:
    """One plain-text mail a digest."""

    name = "email"

    def __init__(self, settings: Settings) -> None:
        _required(
            self.name,
            smtp_host=settings.smtp_host,
            alert_mail_from=settings.alert_mail_from,
            alert_mail_to=settings.alert_mail_to,
        )
        if settings.smtp_user:
            _required(self.name, smtp_password=settings.smtp_password)
        self._settings = settings

    def send(self, delivery: str, alerts: Sequence[Document]) -> None:
        """Hand the mail to the server; see Channel."""
        settings = self._settings
        message = EmailMessage()
        message["Subject"] = f"[meters] {_summary(alerts)}"
        message["From"] = settings.alert_mail_from
        message["To"] = settings.alert_mail_to
        message["Message-ID"] = f"<{delivery}@meters>"
        message.set_content("\n".join([*_lines(alerts), "", "Take notice of them: meters alerts ack ID…"]))
        try:
            with smtplib.SMTP(settings.smtp_host or "", settings.smtp_port, timeout=ANSWER_SECONDS) as server:
                if settings.smtp_starttls:
                    server.starttls(context=ssl.create_default_context())
                if settings.smtp_user:
                    server.login(settings.smtp_user, _secret(settings.smtp_password))
                refused = server.send_message(message)
        except (OSError, smtplib.SMTPException) as error:
            code = f" {error.smtp_code}" if isinstance(error, smtplib.SMTPResponseException) else ""
            raise ChannelError(f"{settings.smtp_host} did not take the mail ({type(error).__name__}{code})") from None
        if refused:  # the others have it: sending again would be twice for them
            LOG.warning("%s refused %d of the receivers in METERS_ALERT_MAIL_TO", settings.smtp_host, len(refused))


_CHANNELS: dict[str, Callable[[Settings], Channel]] = {
    "log": LogChannel,
    "webhook": WebhookChannel,
    "email": EmailChannel,
}
