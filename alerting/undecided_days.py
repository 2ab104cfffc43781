"""Late days that wait for a person: readings have come for figures that have stood for longer than the horizon."""

from collections import Counter
from datetime import datetime

from pymongo.database import Database

from alerting.alerts import Alert, Kind, raise_alerts
from metering.day_ledger import LocalDay, late_days
from metering.settings import Settings


def check_late_days(database: Database, settings: Settings, now: datetime) -> Counter[str]:
    """Raise an alert for each late day that awaits a decision; returns the new ones by kind.

    Once for what is in force: further readings for the same figures are not told again.
    """
    late = late_days(database, before=now.astimezone(settings.zone).date())
    waiting = (day for day in late if day.awaits_decision(settings.late_horizon_days, now))
    return raise_alerts(database, settings, (_alert(day) for day in waiting), now)


def _alert(day: LocalDay) -> Alert:
    run = max(each.run for each in day.assets.values())
    return Alert(
        kind=Kind.LATE_READINGS,
        about=f"{day.day}|{run}",
        subject=str(day.day),
        severity="warning",
        text=f"Readings have come for {day.day}, whose figures have stood since {day.published_at:%Y-%m-%d}. "
        f"Compute it again: meters backfill {day.day}; or let it stand: meters late dismiss {day.day}",
        details={"day": str(day.day), "published_at": day.published_at, "last_reading_at": day.changed_at},
    )
