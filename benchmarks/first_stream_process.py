"""The first system's stream, as the baseline: `python -m benchmarks.first_stream_process OUT CHECKPOINT START`.

Micro-batches as fast as they come: parse, keep readings with -1, write them to another topic. No registry, no other
rules, no strict check. Runs until it is terminated.
"""

import os
import signal
import sys
import threading

from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from local_stack.jars import spark_jars
from metering.settings import LOOPBACK, READINGS_TOPIC, load_settings
from streaming.router.messages import MESSAGE_SCHEMA
from streaming.router.session import forget_connect


def main() -> None:
    """Run until SIGTERM; prints a line when the query has started."""
    out, checkpoint, start = sys.argv[1:]
    settings = load_settings()
    forget_connect()
    os.environ.setdefault("SPARK_LOCAL_IP", LOOPBACK)
    spark = (
        SparkSession.builder.master(f"local[{settings.kafka_partitions + 2}]")
        .config("spark.jars", ",".join(map(str, spark_jars(settings))))
        .config("spark.driver.memory", settings.spark_memory)
        .config("spark.driver.host", LOOPBACK)
        .config("spark.ui.enabled", "false")
        .config("spark.sql.session.timeZone", "UTC")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("OFF")
    message = F.from_json(F.col("value").cast("string"), MESSAGE_SCHEMA)
    query = (
        spark.readStream.format("kafka")
        .option("kafka.bootstrap.servers", settings.kafka)
        .option("subscribe", READINGS_TOPIC)
        .option("startingOffsets", start)
        .load()
        .select("key", message.alias("reading"))
        .where("reading.usage_kwh = -1 or reading.flow_rate = -1")
        .select("key", F.to_json("reading").alias("value"))
        .writeStream.format("kafka")
        .option("kafka.bootstrap.servers", settings.kafka)
        .option("topic", out)
        .option("checkpointLocation", checkpoint)
        .start()
    )
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    told = False
    while not ended.wait(0.2):
        if not query.isActive:
            raise SystemExit(f"the query has ended: {query.exception()}")
        if not told and query.lastProgress:
            print("started", flush=True)
            told = True
    query.stop()


if __name__ == "__main__":
    main()
