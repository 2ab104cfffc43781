"""External assets: what exists outside Dagster and the daily assets come from. They complete the lineage."""

import dagster as dg

OWNERS = ["team:metering"]

iot_meter_topic = dg.AssetSpec(
    "iot_meter_topic",
    group_name="sources",
    kinds={"kafka"},
    owners=OWNERS,
    description="Kafka topic `iot-meter`: every message that a meter sends, UTF-8 JSON, key = device_id.",
)

iot_abnormal_topic = dg.AssetSpec(
    "iot_abnormal_topic",
    deps=[iot_meter_topic],
    group_name="sources",
    kinds={"kafka"},
    owners=OWNERS,
    description="Kafka topic `iot-abnormal`: faulty readings, with the rule that each one breaks.",
)

stored_readings = dg.AssetSpec(
    "stored_readings",
    deps=[iot_meter_topic],
    group_name="sources",
    kinds={"mongodb"},
    owners=OWNERS,
    description="MongoDB collection `iot-meter`: each valid reading once, written by `meters ingest`.",
)

meter_registry = dg.AssetSpec(
    "meter_registry",
    group_name="sources",
    kinds={"mongodb"},
    owners=OWNERS,
    description="MongoDB collection `meters`: each meter's type, interval, household and district.",
)

SOURCES = [iot_meter_topic, iot_abnormal_topic, stored_readings, meter_registry]
