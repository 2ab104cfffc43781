"""From a Kafka message to a judged reading and a fault event, as Spark columns.

What Spark takes for a reading is what `metering.reading.parse_reading` takes for one. Checking that strictly costs
more than judging, so the strict check is a column of its own: the fault query asks it of the few faulty readings only.
"""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from metering.fault_event import Severity
from metering.faults import FaultRule, fault_details, is_faulty, with_registry
from metering.reading import AMOUNT_LIMIT, DEVICE_ID_PATTERN, MAX_MESSAGE_BYTES, MeterType

MESSAGE_SCHEMA = (
    "device_id string, timestamp string, usage_kwh double, usage double, flow_rate double, `register` double, "
    "schema_version int"
)
"""What `from_json` reads of a message."""

SESSION_OPTIONS = {
    "spark.sql.session.timeZone": "UTC",
    # A message that no one foresaw gives a null, and is no reading; it must not end the query.
    "spark.sql.ansi.enabled": "false",
    "spark.sql.variant.allowDuplicateKeys": "true",  # the last one counts, as for ingest
}
"""What these columns ask of the Spark session."""

_TIMESTAMP = r"^\d{4}-\d\d-\d\d[Tt _]\d\d:\d\d(:\d\d([.,]\d{1,9})?)?([Zz]|[+-]\d\d:?\d\d)\z"
_NUMBER = r"(BIGINT|DOUBLE|DECIMAL\(\d+,\d+\))"
_SHAPE = (
    rf"^OBJECT<device_id: STRING(, flow_rate: {_NUMBER})?(, register: ({_NUMBER}|VOID))?(, schema_version: BIGINT)?"
    rf", timestamp: STRING(, usage: {_NUMBER})?(, usage_kwh: {_NUMBER})?>$"
)
"""A reading's fields and their JSON types as `schema_of_variant` writes them: sorted, nothing else, no text for a
number."""

REGISTER_LIMIT = 1e15


def readings(messages: DataFrame) -> DataFrame:
    """Messages of the Kafka source as readings, loosely parsed: what is no JSON object has no fields. See `is_reading`.

    Returns:
        columns of reading.SPARK_SCHEMA (timestamp to the millisecond), and `timestamp_text`, `payload`
        (strings), `topic`, `partition`, `offset`.
    """
    payload = F.col("value").cast("string")
    parsed = messages.select(
        # All in one step: each further one would copy every reading.
        F.from_json(payload, MESSAGE_SCHEMA, {"allowNonNumericNumbers": "false"}).alias("message"),
        payload.alias("payload"),
        F.col("timestamp").alias("received_at"),
        "topic",
        "partition",
        "offset",
    )
    meter_type = F.when(F.col("message.usage_kwh").isNotNull(), F.lit(str(MeterType.ELECTRICITY))).otherwise(
        F.lit(str(MeterType.WATER))
    )
    return parsed.select(
        "message.device_id",
        _instant(F.col("message.timestamp")).alias("timestamp"),
        F.col("message.timestamp").alias("timestamp_text"),
        meter_type.alias("meter_type"),
        "message.usage_kwh",
        "message.usage",
        "message.flow_rate",
        "message.register",
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
    """`boolean`, never null: would ingest store this message? Asks the columns of `readings`."""
    # Neither parser minds what follows the object; a reading has no braces but its own.
    alone = F.col("payload").rlike(r"^\s*\{[^{}]*\}\s*$")
    shape = F.schema_of_variant(F.try_parse_json("payload")).rlike(_SHAPE)
    electricity = F.col("usage_kwh").isNotNull() & F.col("usage").isNull() & F.col("flow_rate").isNull()
    water = F.col("usage_kwh").isNull() & F.col("usage").isNotNull() & F.col("flow_rate").isNotNull()
    amounts = [F.coalesce(F.abs(name) <= AMOUNT_LIMIT, F.lit(True)) for name in ("usage_kwh", "usage", "flow_rate")]
    checks = [
        F.octet_length("payload") <= MAX_MESSAGE_BYTES,
        F.col("device_id").rlike(DEVICE_ID_PATTERN.removesuffix("$") + r"\z"),
        F.col("timestamp_text").rlike(_TIMESTAMP),
        F.col("timestamp") >= F.lit("2000-01-01T00:00:00Z").cast("timestamp"),
        F.col("timestamp") < F.lit("2100-01-01T00:00:00Z").cast("timestamp"),
        electricity | water,
        *amounts,
        F.coalesce(F.abs("register") <= REGISTER_LIMIT, F.lit(True)),
        F.coalesce(F.col("schema_version") == 1, F.lit(True)),
        alone,
        shape,
    ]
    verdict = checks[0]
    for check in checks[1:]:
        verdict = verdict & check
    return F.coalesce(verdict, F.lit(False))


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
