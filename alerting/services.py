"""Services of the local stack that fail, and those that have recovered.

The supervisor writes them to the stack's state file, which needs no MongoDB: it may be MongoDB that fails. Then alerts
go to the channels without being stored, and are stored as sent once MongoDB answers.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime

from pymongo.database import Database

from alerting.alerts import Alert, Kind, alert_document, raise_alerts
from alerting.channels import Channel, ChannelError
from metering.settings import Settings
from metering.store import ALERTS
from runtime.local_services import ServiceTrouble, failures

Notified = dict[str, list[str]]
"""Ids of alerts that went out without MongoDB, each with the channels that took it."""


def check_services(
    database: Database, settings: Settings, notified: Mapping[str, Sequence[str]], now: datetime
) -> Counter[str]:
    """Raise alerts for failures of services and for their ends; returns the new ones by kind.

    Args:
        database: where alerts are stored.
        settings: of the installation.
        notified: those that have gone out already; they are stored as sent.
        now: this moment.
    """
    raised = raise_alerts(database, settings, service_alerts(settings), now)
    for alert, channels in notified.items():
        for channel in channels:
            sent = {"state": "sent", "attempts": 1, "delivery": _delivery(alert, channel), "sent_at": now}
            changes = {f"channels.{channel}.{name}": value for name, value in sent.items()}
            database[ALERTS].update_one({"_id": alert, f"channels.{channel}.state": "pending"}, {"$set": changes})
    return raised


def notify_without_store(
    settings: Settings, channels: Sequence[Channel], notified: Notified, now: datetime
) -> tuple[Notified, list[str]]:
    """Send what the channels have not taken yet, without MongoDB.

    Returns:
        All that has gone out by now, and the channels' errors.
    """
    after = {alert: list(taken) for alert, taken in notified.items()}
    errors = []
    for alert in service_alerts(settings):
        for channel in channels:
            if channel.name in after.get(alert.id, ()):
                continue
            document = {"_id": alert.id, **alert_document(alert, settings, now)}
            try:
                channel.send(_delivery(alert.id, channel.name), [document])
            except ChannelError as error:
                errors.append(f"{channel.name}: {error}")
            else:
                after.setdefault(alert.id, []).append(channel.name)
    return after, errors


def service_alerts(settings: Settings) -> list[Alert]:
    """What there is to report of the services of this home's local stack."""
    found = []
    for service in failures(settings):
        found.append(_failed(service))
        if service.recovered_at:
            found.append(_recovered(service))
    return found


def _failed(service: ServiceTrouble) -> Alert:
    return Alert(
        kind=Kind.SERVICE_FAILED,
        about=f"{service.name}|{service.failed_at}",
        subject=service.name,
        severity="critical",
        text=f"{service.title} of the local stack crashes again and again: {service.failed_reason}. It is tried again "
        f"with growing pauses; at once by: meters up. Its log: {service.log}",
        details={"failed_at": service.failed_at, "reason": service.failed_reason, "log": service.log},
    )


def _recovered(service: ServiceTrouble) -> Alert:
    return Alert(
        kind=Kind.SERVICE_RECOVERED,
        about=f"{service.name}|{service.failed_at}",
        subject=service.name,
        severity="info",
        text=f"{service.title} of the local stack, which failed at {service.failed_at}, has recovered",
        details={"failed_at": service.failed_at, "recovered_at": service.recovered_at},
    )


def _delivery(alert: str, channel: str) -> str:
    """The digest's id: the same at every try."""
    return f"{channel}-{alert}".replace("|", "-").replace(":", "").replace("+", "-")
