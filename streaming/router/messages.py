"""From a Kafka message to a judged reading and a fault event, as Spark columns.

What Spark takes for a reading is what `metering.reading.parse_reading` takes for one: the columns are derived from the
same contract. Checking that strictly costs more than judging, so the strict check is a column of its own: the fault
query evaluates it for the few faulty readings only.
"""

from functools import reduce

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from metering.fault_event import Severity
from metering.fault_rules import FaultRule, fault_details, is_faulty, with_registry
from metering.fields import Field
from metering.meter_columns import meter_type_of
from metering.reading import (
    ALL_FIELDS,
    BEFORE,
    EARLIEST,
    FIELDS,
    LONG_NUMBER_PATTERN,
    MAX_MESSAGE_BYTES,
    MAX_NUMBER_CHARACTERS,
    NUMBERS,
)

_COLUMN_TYPES = {"string": "string", "number": "double", "integer": "bigint"}  # int would make null of a large number
MESSAGE_SCHEMA = ", ".join(f"`{field.name}` {_COLUMN_TYPES[field.kind]}" for field in ALL_FIELDS.values())
"""What `from_json` reads of a message."""

SESSION_OPTIONS = {
    "spark.sql.session.timeZone": "UTC",
    # A message that no one foresaw gives a null, and is no reading; it must not end the query.
    "spark.sql.ansi.enabled": "false",
    "spark.sql.variant.allowDuplicateKeys": "false",  # ingest refuses a message with a repeated field
}
"""What these columns require of the Spark session."""

_TEXT = r"^[ \t\n\r]*\{[\t\n\r -z|~]*\}[ \t\n\r]*\z"
"""One flat object in ASCII, with nothing around it but JSON's own blanks: Spark's parsers ignore what follows it, and
decode what is no UTF-8."""

_VARIANT_TYPES = {"string": "STRING", "number": r"(BIGINT|DOUBLE|DECIMAL\(\d+,\d+\))", "integer": "BIGINT"}


def _whole(pattern: str) -> str:
    """A pattern of the contract for Java, whose `$` also matches before a line break at the end."""
    return pattern.removesuffix("$") + r"\z"


def _shape(fields: tuple[Field, ...]) -> str:
    """A pattern of a message's fields and JSON types as `schema_of_variant` writes them: sorted by name.

    Spark puts any name that is no plain word between backticks, so that no name can look like several fields.
    """
    parts: list[str] = []
    for field in sorted(fields, key=lambda each: each.name):
        kind = _VARIANT_TYPES[field.kind]
        if field.nullable:
            kind = f"({kind}|VOID)"
        parts.append(f"({field.name}: {kind}(, )?){'' if field.required else '?'}")
    return "".join(parts)


_SHAPE = rf"^OBJECT<({'|'.join(_shape(fields) for fields in FIELDS.values())})>\z"


def readings(messages: DataFrame) -> DataFrame:
    """Messages of the Kafka source as readings, loosely parsed: what is no JSON object has no fields. See `is_reading`.

    Of a message that is too long for a reading, nothing is parsed.

    Returns:
        columns of reading.SPARK_SCHEMA (timestamp to the millisecond), and `timestamp_text`, `payload`
        (strings), `topic`, `partition`, `offset`.
    """
    payload = F.when(F.octet_length("value") <= MAX_MESSAGE_BYTES, F.col("value").cast("string"))
    parsed = messages.select(
        # All in one step: each further one would copy every reading.
        F.from_json(payload, MESSAGE_SCHEMA, {"allowNonNumericNumbers": "false"}).alias("message"),
        payload.alias("payload"),
        F.col("timestamp").alias("received_at"),
        "topic",
        "partition",
        "offset",
    )
    return parsed.select(
        "message.device_id",
        _instant(F.col("message.timestamp")).alias("timestamp"),
        F.col("message.timestamp").alias("timestamp_text"),
        meter_type_of("message.").alias("meter_type"),
        *(f"message.{name}" for name in NUMBERS),
        "message.schema_version",
        "received_at",
        "payload",
        "topic",
        "partition",
        "offset",
    )


def _instant(text: Column) -> Column:
    """`timestamp`, to the millisecond as ingest keeps it; Spark's cast takes forms that `is_reading` does not."""
    # Spark wants T, Z, a point, and seconds; what ingest takes beyond that is rare, and only then made to fit.
    fitted = F.translate(F.upper(text), "_,", "T.")
    fitted = F.regexp_replace(fitted, "^(.{16})([Z+-])", "$1:00$2")
    return F.date_trunc("millisecond", F.coalesce(text.try_cast("timestamp"), fitted.try_cast("timestamp")))


def is_reading() -> Column:
    """`boolean`, never null: would ingest store this message? Uses the columns of `readings`."""
    of_field = {"device_id": "device_id", "timestamp": "timestamp_text"}
    checks = [
        F.col("payload").rlike(_TEXT),
        (F.length("payload") <= MAX_NUMBER_CHARACTERS) | ~F.col("payload").rlike(LONG_NUMBER_PATTERN),
        *(_fits(field, F.col(of_field.get(field.name, field.name))) for field in ALL_FIELDS.values()),
        (F.col("timestamp") >= F.lit(EARLIEST)) & (F.col("timestamp") < F.lit(BEFORE)),
        F.schema_of_variant(F.try_parse_json("payload")).rlike(_SHAPE),  # which fields there are, and of which types
    ]
    return F.coalesce(reduce(Column.__and__, checks), F.lit(False))


def _fits(field: Field, value: Column) -> Column:
    """Is the value, if there is one, within the field's pattern or bounds?"""
    fits = value.rlike(_whole(field.pattern)) if field.pattern else value.between(field.low, field.high)
    return F.coalesce(fits, F.lit(True))


def fault_messages(
    readings: DataFrame, meters: DataFrame, rules: tuple[FaultRule, ...], *, topic: str, topics: dict[str, str]
) -> DataFrame:
    """The faulty ones of the readings as messages for the Kafka sink.

    Args:
        readings: see `readings`.
        meters: columns of registry.METER_SPARK_SCHEMA.
        rules: those in force.
        topic: where faults go.
        topics: other topics for some severities.

    Returns:
        topic, key (device_id), value (a fault event as JSON, see metering/fault_event.py) and headers (event_id,
        severity, rules).
    """
    judged = with_registry(readings, meters).where(is_faulty(rules))
    # Spark would check all readings before it joins the few faulty ones, unless the check asks something of the join.
    faulty = judged.where(is_reading() | (F.col("interval_seconds") < 0))
    critical = F.exists("rules", lambda rule: rule["severity"] == str(Severity.CRITICAL))
    severity = F.when(critical, F.lit(str(Severity.CRITICAL))).otherwise(F.lit(str(Severity.WARNING)))
    events = (
        faulty.withColumn("rules", fault_details(rules))
        .withColumn("severity", severity)
        .withColumn("instant", iso_utc(F.col("timestamp")))
        .withColumn("event_id", F.concat_ws("|", "instant", "device_id"))
    )
    event = F.to_json(
        F.struct(
            "event_id",
            "device_id",
            F.col("instant").alias("timestamp"),
            "meter_type",
            "severity",
            "rules",
            "payload",
            iso_utc(F.col("received_at")).alias("received_at"),
            F.struct("topic", "partition", "offset").alias("source"),
        )
    )
    destination = F.lit(topic)
    for each, other in topics.items():
        destination = F.when(F.col("severity") == each, F.lit(other)).otherwise(destination)
    return events.select(
        destination.alias("topic"),
        F.col("device_id").cast("binary").alias("key"),
        event.cast("binary").alias("value"),
        F.array(
            _header("event_id", F.col("event_id")),
            _header("severity", F.col("severity")),
            _header("rules", F.concat_ws(",", "rules.id")),
        ).alias("headers"),
    )


def _header(name: str, text: Column) -> Column:
    return F.struct(F.lit(name).alias("key"), text.cast("binary").alias("value"))


def iso_utc(instant: Column) -> Column:
    """As reading.iso_utc writes it: `2024-05-27T15:57:54Z`, with `.123` only where there are milliseconds."""
    whole = F.date_format(instant, "yyyy-MM-dd'T'HH:mm:ss'Z'")
    return F.when(F.unix_millis(instant) % 1000 == 0, whole).otherwise(
        F.date_format(instant, "yyyy-MM-dd'T'HH:mm:ss.SSS'Z'")
    )
