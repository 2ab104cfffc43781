"""The columns of every daily data set, each with its unit and meaning: what the UI and the documentation show."""

import dagster as dg


def table_schema(*columns: tuple[str, str, str]) -> dg.TableSchema:
    """A Dagster table schema from (name, type, description)."""
    return dg.TableSchema([dg.TableColumn(name, kind, description) for name, kind, description in columns])


_PUBLISHED = (
    ("computed_at", "timestamp", "When these figures were published; stays while they stay the same."),
    ("revision", "int", "1 as first published, one more with each change; what was before: `meters history`."),
)
_MEASURED = (
    ("readings", "bigint", "Healthy readings of the day."),
    ("faulty_readings", "bigint", "Faulty readings of the day; they stay out of every other figure."),
    ("meters_seen", "bigint", "Meters with at least one healthy reading."),
    ("meters_expected", "bigint", "Meters that the registry has in service."),
    (
        "expected_readings",
        "bigint",
        "Readings that the registry's meters should have sent: 96 each of 15 minutes, 92 or 100 "
        "on the days of a clock change.",
    ),
    (
        "completeness",
        "double",
        "Σ min(readings, expected) / Σ expected over the registered meters, 0 to 1; "
        "expected = ceil(seconds in service that day / interval).",
    ),
)

RAW_READINGS = table_schema(
    ("day", "date", "Local day of the timestamp (partition)."),
    ("device_id", "string", "Meter."),
    ("timestamp", "timestamp", "Instant of the reading, UTC."),
    ("meter_type", "string", "electricity or water."),
    ("usage_kwh", "double", "Electricity: kWh used in the reading's interval; -1 is the meter's fault sign."),
    ("usage", "double", "Water: litres used in the reading's interval."),
    ("flow_rate", "double", "Water: litres a minute at that instant; -1 is the meter's fault sign."),
    ("register", "double", "Cumulative counter in kWh or litres, where the meter sends it."),
    ("received_at", "timestamp", "When the broker received it, UTC."),
)

DAILY_AVERAGES = table_schema(
    ("_id", "string", "<calculation_date>|<meter_type>"),
    ("calculation_date", "string", "Local day, ISO 8601."),
    ("meter_type", "string", "electricity or water."),
    ("unit", "string", "Unit of min, max, median and p95: kWh or L per reading."),
    ("avg_usage", "double", "Water: mean litres per healthy reading."),
    ("avg_usage_kwh", "double", "Electricity: mean kWh per healthy reading."),
    ("avg_flow_rate", "double", "Water: mean flow rate, L/min."),
    ("total_usage", "double", "Water: litres, sum of healthy readings."),
    ("total_usage_kwh", "double", "Electricity: kWh, sum of healthy readings."),
    ("min", "double", "Smallest usage of a reading."),
    ("max", "double", "Largest usage of a reading."),
    ("median", "double", "Median usage of a reading (exact, linear interpolation)."),
    ("p95", "double", "95th percentile of usage of a reading (exact, linear interpolation)."),
    *_MEASURED,
    *_PUBLISHED,
)

ABNORMAL_DEVICE_SUMMARY = table_schema(
    ("_id", "string", "<calculation_date>|<device_id>"),
    ("calculation_date", "string", "Local day, ISO 8601."),
    ("device_id", "string", "Meter."),
    ("meter_type", "string", "electricity or water."),
    ("household_id", "string", "Household, or unassigned."),
    ("district", "string", "District, or unassigned."),
    ("faulty_readings", "bigint", "Faulty readings of the day."),
    ("faulty_share", "double", "faulty_readings / all readings of the meter that day, 0 to 1."),
    ("reasons", "array<struct<rule:string,count:bigint>>", "Rules broken, each with its number of readings."),
    ("first_fault_at", "timestamp", "Instant of the day's first faulty reading, UTC."),
    ("last_fault_at", "timestamp", "Instant of the day's last faulty reading, UTC."),
    ("longest_fault_run", "bigint", "Largest number of consecutive faulty readings within the day."),
    *_PUBLISHED,
)

DAILY_CONSUMPTION = table_schema(
    ("_id", "string", "<calculation_date>|<level>|<key>|<meter_type>"),
    ("calculation_date", "string", "Local day, ISO 8601."),
    ("level", "string", "device, household or district."),
    ("key", "string", "Device, household or district; unassigned where the registry has no place."),
    ("meter_type", "string", "electricity or water."),
    ("total_usage", "double", "Water: litres, sum of healthy readings."),
    ("total_usage_kwh", "double", "Electricity: kWh, sum of healthy readings."),
    *_MEASURED,
    *_PUBLISHED,
)
