"""The table: every row, in the order in which they run. Rows of the same services stand together."""

from faults.row import Row
from faults.rows import cluster, dagster, days, disk, ingest, router, services, topics, users

ROWS: tuple[Row, ...] = (
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
