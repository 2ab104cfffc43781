"""Abnormal days: local days on which more meters were faulty than the settings allow."""

from collections import Counter
from collections.abc import Iterable
from datetime import date, datetime

from pymongo.database import Database

from alerting.alerts import Alert, Kind, raise_alerts
from metering.calendar import local_day
from metering.daily_tables import ABNORMAL_DEVICE_SUMMARY
from metering.registry import METERS
from metering.settings import Settings


def check_days(database: Database, settings: Settings, days: Iterable[date], now: datetime) -> Counter[str]:
    """Raise an alert for each of those days that passes a threshold; returns the new ones by kind.

    A day's figures come from `abnormal_device_summary` as it stands. A day that is materialized again with the same
    number of abnormal meters is the same alert, with another number a new one.
    """
    found = (_alert(database, settings, day) for day in days)
    return raise_alerts(database, settings, (alert for alert in found if alert), now)


def _alert(database: Database, settings: Settings, day: date) -> Alert | None:
    abnormal = [
        summary["device_id"]
        for summary in database[ABNORMAL_DEVICE_SUMMARY].find({"calculation_date": day.isoformat()}, {"device_id": 1})
    ]
    if not abnormal:
        return None
    # A faulty meter that the registry does not know belongs to the day's meters all the same.
    in_service = _in_service(settings, day)
    known = database[METERS].count_documents({"_id": {"$in": abnormal}, **in_service})
    meters = database[METERS].count_documents(in_service) + len(abnormal) - known
    share = len(abnormal) / meters
    most = settings.alert_abnormal_meters
    if share <= settings.alert_abnormal_share and (most is None or len(abnormal) <= most):
        return None
    return Alert(
        kind=Kind.ABNORMAL_DAY,
        about=f"{day.isoformat()}|{len(abnormal)}",
        subject=day.isoformat(),
        severity="warning",
        text=f"{len(abnormal):,} of {meters:,} meters ({share:.1%}) were abnormal on {day.isoformat()}",
        details={"day": day.isoformat(), "abnormal_meters": len(abnormal), "meters": meters, "share": share},
    )


def _in_service(settings: Settings, day: date) -> dict:
    """Registry filter: in service at some time of the local day."""
    _, start, end = local_day(day, settings.zone)
    return {"installed_at": {"$lt": end}, "$or": [{"removed_at": None}, {"removed_at": {"$gt": start}}]}
