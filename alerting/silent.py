"""Silent meters: those in service that have sent nothing for too many of their intervals, and those that speak again.

What is silent now is worked out anew each time from the registry and `iot.latest_readings`; which silences have been
told of and not ended yet is kept on their alerts (`ended_at`).
"""

from collections import Counter
from datetime import datetime, timedelta
from typing import Any

from pymongo.database import Database

from alerting.alerts import Alert, Document, Kind, is_recent, raise_alerts
from metering.reading import iso_utc
from metering.registry import METERS
from metering.settings import Settings
from metering.store import ALERTS, LATEST_READINGS


def check_silence(database: Database, settings: Settings, now: datetime) -> Counter[str]:
    """Raise alerts for meters that have fallen silent and for those that speak again; returns the new ones by kind.

    A meter is silent when its newest reading, or its installation if it has sent none, is more than
    METERS_ALERT_SILENT_INTERVALS of its intervals ago. As long as a silence lasts, it is one alert.
    """
    if database[LATEST_READINGS].find_one({}, {"_id": 1}) is None:
        return Counter()  # nobody has written who spoke when: that is no silence of every meter
    told = {alert["subject"]: alert for alert in database[ALERTS].find({"kind": Kind.METER_SILENT, "ended_at": None})}
    silent = {meter["_id"]: meter for meter in database[METERS].aggregate(_silent_meters(settings, now))}

    fallen = [
        _silent_alert(meter)
        for device, meter in silent.items()
        if device not in told and is_recent(meter["silent_since"], settings, now)
    ]
    over = [alert for device, alert in told.items() if device not in silent]
    latest = {
        reading["_id"]: reading["timestamp"]
        for reading in database[LATEST_READINGS].find({"_id": {"$in": [alert["subject"] for alert in over]}})
    }
    speaking = [
        _speaks_alert(alert, latest[alert["subject"]])
        for alert in over
        if alert["subject"] in latest and latest[alert["subject"]] > alert["details"]["last_sign_at"]
    ]
    raised = raise_alerts(database, settings, [*fallen, *speaking], now)
    # Afterwards: after a crash in between, the silence has not ended yet and this is done again.
    database[ALERTS].update_many({"_id": {"$in": [alert["_id"] for alert in over]}}, {"$set": {"ended_at": now}})
    return raised


def _silent_meters(settings: Settings, now: datetime) -> list[dict[str, Any]]:
    """The aggregation over the registry that leaves the silent meters, with `last_sign_at` and `silent_since`."""
    patience_ms = {"$multiply": ["$interval_seconds", 1000 * settings.alert_silent_intervals]}
    return [
        {"$match": {"installed_at": {"$lte": now}, "$or": [{"removed_at": None}, {"removed_at": {"$gt": now}}]}},
        {"$lookup": {"from": LATEST_READINGS, "localField": "_id", "foreignField": "_id", "as": "latest"}},
        {"$set": {"spoke_at": {"$first": "$latest.timestamp"}}},
        # A meter that was installed again after its last reading has its whole patience from then on.
        {"$set": {"last_sign_at": {"$max": ["$spoke_at", "$installed_at"]}}},
        {"$set": {"silent_since": {"$add": ["$last_sign_at", patience_ms]}}},
        {"$match": {"silent_since": {"$lt": now}}},
        {"$project": {"meter_type": 1, "interval_seconds": 1, "spoke_at": 1, "last_sign_at": 1, "silent_since": 1}},
    ]


def _silent_alert(meter: Document) -> Alert:
    since = f"since {iso_utc(meter['spoke_at'])}" if meter.get("spoke_at") else "since it was installed"
    details = {name: value for name, value in meter.items() if name != "_id"}
    return Alert(
        kind=Kind.METER_SILENT,
        about=f"{meter['_id']}|{iso_utc(meter['last_sign_at'])}",
        subject=meter["_id"],
        severity="warning",
        text=f"{meter['meter_type']} meter {meter['_id']} has sent no reading {since}",
        details=details,
    )


def _speaks_alert(silence: Document, spoke_at: datetime) -> Alert:
    silent_for = timedelta(seconds=int((spoke_at - silence["details"]["last_sign_at"]).total_seconds()))
    return Alert(
        kind=Kind.METER_SPEAKS,
        about=silence["_id"].removeprefix(f"{Kind.METER_SILENT}|"),
        subject=silence["subject"],
        severity="info",
        text=f"{silence['details']['meter_type']} meter {silence['subject']} speaks again after {silent_for}",
        details={"spoke_at": spoke_at, "last_sign_at": silence["details"]["last_sign_at"]},
    )
