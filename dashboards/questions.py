"""The questions, as data: what each shows, and the aggregation pipeline that MongoDB runs for it.

Units are in the names of the columns, which Metabase shows as headings and in legends.

A local day is a date of the city and no instant: its column stays text, `2024-05-18`, for Metabase would move a
timestamp into its own report time zone, and perhaps to the day before.
"""

from dataclasses import dataclass, field
from typing import Any

from dashboards.native_query import Filter, Stage, filters_in, native_query
from metering.daily_tables import ABNORMAL_DEVICE_SUMMARY, DAILY_AVERAGES
from metering.meter_types import AMOUNT_FIELDS, METER_TYPES, MeterTypeRow
from metering.registry import METERS, UNASSIGNED
from metering.store import FAULT_EPISODES, LATEST_READINGS, LOCAL_DAYS

DAYS = Filter("days", "Days", "number", default=30)
UNTIL = Filter("until", "Until", "date")
FILTERS = (DAYS, UNTIL)

MAX_ROWS = 200
"""Of a table that names meters; a dashboard is no place for longer ones."""

WORST_METERS = 20


@dataclass(frozen=True)
class Question:
    """A question of Metabase (its API says card).

    Args:
        key: what it is known by for ever; another key is another question.
        title: its name in Metabase.
        text: what it shows, for people.
        collection: that its pipeline begins in.
        pipeline: see native_query.
        display: `table`, `bar` or `line`.
        settings: Metabase's visualization settings.
    """

    key: str
    title: str
    text: str
    collection: str
    pipeline: list[Stage]
    display: str = "table"
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def filters(self) -> list[Filter]:
        """The dashboard's filters that it heeds."""
        return filters_in(self.pipeline, FILTERS)

    @property
    def query(self) -> str:
        """Its native query, as Metabase keeps it."""
        return native_query(self.pipeline, FILTERS)


def _figures(asset: str) -> list[Stage]:
    """The published documents of the asset's last days, counted back from the chosen one.

    Days that have figures are counted, not days back from today: a city whose readings end in 2017 is shown as well as
    one of today. `local_days` has one small document a day, and calculation_date is indexed everywhere.
    """
    chosen_day = {"$dateToString": {"date": "{{until}}", "format": "%Y-%m-%d"}}
    return [
        {"$match": {f"assets.{asset}": {"$exists": True}}},
        {"$match": {"$expr": {"$lte": ["$_id", chosen_day]}}},
        {"$sort": {"_id": -1}},
        {"$limit": "{{days}}"},
        {"$lookup": {"from": asset, "localField": "_id", "foreignField": "calculation_date", "as": "figures"}},
        {"$unwind": "$figures"},
        {"$replaceWith": "$figures"},
    ]


def _place(device: str) -> list[Stage]:
    """Adds `district`, from the registry."""
    district = {"$ifNull": [{"$first": "$place.district"}, UNASSIGNED]}
    return [
        {"$lookup": {"from": METERS, "localField": device, "foreignField": "_id", "as": "place"}},
        {"$set": {"district": district}},
    ]


def _joined(array: str) -> Stage:
    """The strings of an array as one, with commas."""
    comma = {"$cond": [{"$eq": ["$$value", ""]}, "", ", "]}
    together = {"$concat": ["$$value", comma, "$$this"]}
    return {"$reduce": {"input": {"$ifNull": [array, []]}, "initialValue": "", "in": together}}


def _axes(metric: str, unit: str, **more: Any) -> dict[str, Any]:
    return {
        "graph.dimensions": ["Day"],
        "graph.metrics": [metric],
        "graph.x_axis.scale": "ordinal",
        "graph.x_axis.title_text": "Local day",
        "graph.y_axis.title_text": unit,
        **more,
    }


def _consumption(row: MeterTypeRow) -> Question:
    column = f"{row.title} ({row.unit})"
    return Question(
        key=f"{row.meter_type}_per_day",
        title=f"{row.title} consumption per day",
        text=f"Sum of the healthy readings of all {row.meter_type} meters, in {row.unit}, per local day.",
        collection=LOCAL_DAYS,
        pipeline=[
            *_figures(DAILY_AVERAGES),
            {"$match": {"meter_type": str(row.meter_type)}},
            {"$sort": {"calculation_date": 1}},
            {"$project": {"_id": 0, "Day": "$calculation_date", column: f"${row.total_column}"}},
        ],
        display="bar",
        settings=_axes(column, row.unit),
    )


COMPLETENESS = Question(
    key="completeness",
    title="Completeness per day",
    text="Share of the expected readings that came and were healthy, in percent, per local day and meter type.",
    collection=LOCAL_DAYS,
    pipeline=[
        *_figures(DAILY_AVERAGES),
        {"$match": {"completeness": {"$ne": None}}},  # nothing was expected of that type
        {"$sort": {"calculation_date": 1, "meter_type": 1}},
        {
            "$project": {
                "_id": 0,
                "Day": "$calculation_date",
                "Meters": "$meter_type",
                "Completeness (%)": {"$multiply": ["$completeness", 100]},
            }
        },
    ],
    display="line",
    settings=_axes(
        "Completeness (%)",
        "%",
        **{"graph.dimensions": ["Day", "Meters"], "graph.y_axis.auto_range": False},
        **{"graph.y_axis.min": 0, "graph.y_axis.max": 100},
    ),
)

FAULTS_NOW = Question(
    key="faults_now",
    title="Faults now",
    text="Meters with an open fault episode: critical ones first, then the latest fault first. Times are instants.",
    collection=FAULT_EPISODES,
    pipeline=[
        {"$match": {"state": "open"}},
        {"$sort": {"severity": 1, "last_seen_at": -1, "_id": 1}},  # critical sorts before warning
        {"$limit": MAX_ROWS},
        *_place("device_id"),
        {
            "$project": {
                "_id": 0,
                "Meter": "$device_id",
                "Type": "$meter_type",
                "District": "$district",
                "Severity": "$severity",
                "Since": "$opened_at",
                "Last fault": "$last_seen_at",
                "Faulty readings": "$count",
                "Rules": _joined("$rules"),
                "Explanation": "$explanation",
            }
        },
    ],
)

WORST = Question(
    key="worst_meters",
    title="Worst meters",
    text=f"The {WORST_METERS} meters with the most faulty readings over the chosen days.",
    collection=LOCAL_DAYS,
    pipeline=[
        *_figures(ABNORMAL_DEVICE_SUMMARY),
        {"$sort": {"calculation_date": 1}},
        {
            "$group": {
                "_id": "$device_id",
                "type": {"$last": "$meter_type"},
                "district": {"$last": "$district"},
                "faulty": {"$sum": "$faulty_readings"},
                "readings": {"$sum": {"$divide": ["$faulty_readings", "$faulty_share"]}},  # of days with a fault
                "days": {"$sum": 1},
                "longest": {"$max": "$longest_fault_run"},
                "last": {"$max": "$last_fault_at"},
            }
        },
        {"$sort": {"faulty": -1, "_id": 1}},
        {"$limit": WORST_METERS},
        {
            "$project": {
                "_id": 0,
                "Meter": "$_id",
                "Type": "$type",
                "District": "$district",
                "Faulty readings": "$faulty",
                "Faulty on those days (%)": {"$multiply": [{"$divide": ["$faulty", "$readings"]}, 100]},
                "Days with faults": "$days",
                "Longest run of faults": "$longest",
                "Last fault": "$last",
            }
        },
    ],
)

LATEST = Question(
    key="latest_readings",
    title="Latest readings",
    text=f"The newest reading of each meter, the {MAX_ROWS} newest of them, with the fault rules that it breaks.",
    collection=LATEST_READINGS,
    pipeline=[
        {"$sort": {"timestamp": -1, "_id": 1}},
        {"$limit": MAX_ROWS},
        *_place("_id"),
        {
            "$project": {
                "_id": 0,
                "Meter": "$_id",
                "Type": "$meter_type",
                "District": "$district",
                "Time": "$timestamp",
                # A column that the first rows lack would not be shown: what a type does not measure is null.
                **{f"{field.title} ({field.unit})": {"$ifNull": [f"${field.name}", None]} for field in AMOUNT_FIELDS},
                "Faults": _joined("$faults"),
            }
        },
    ],
)

CONSUMPTION = {name: _consumption(row) for name, row in METER_TYPES.items()}
"""The question about each meter type's consumption."""

QUESTIONS = (*CONSUMPTION.values(), COMPLETENESS, FAULTS_NOW, WORST, LATEST)
