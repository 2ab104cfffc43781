"""The table: every row, in the order in which they run. Rows of the same services stand together."""

from dataclasses import replace

from fault_injection.row import Row
from fault_injection.rows import cluster, dagster, days, disk, ingest, router, services, topics, users

VARIANTS = frozenset(
    {
        *("ingest-pause-thrice", "ingest-pause-before-begin-14s", "ingest-pause-after-flush-26s"),
        *("ingest-rebalance-kill", "mongod-down-40s", "retention-down", "topic-again-running-more"),
        *("message-codec-gzip", "message-bomb-zstd-400"),
        *("router-kill", "router-two", "router-broker-pause", "router-mongod-kill", "router-partitions"),
        *("router-checkpoint", "run-days-kill-reads", "run-days-kill-abnormal", "run-days-two"),
        *("run-days-kill-averages", "run-days-pause", "spark-server-days-kill-reads"),
        *("spark-server-days-kill-averages", "spark-server-days-pause-26s", "mongod-days-kill-reads"),
        *("run-worker-kill-averages", "dev-kill", "router-under-dagster-kill", "router-under-dagster-worker"),
    }
)
"""Rows that another one of the same process and fault stands for: left to --full, so that a run lasts 45 minutes."""

ROWS: tuple[Row, ...] = tuple(
    replace(row, full=row.full or row.id in VARIANTS)
    for row in (
        *ingest.ROWS,
        *services.ROWS,
        *topics.ROWS,
        *users.ROWS,
        *router.ROWS,
        *disk.ROUTER_ROWS,
        *days.ROWS,
        *disk.DAYS_ROWS,
        *dagster.ROWS,
        *cluster.ROWS,
        *disk.OWN_ROWS,
    )
)
