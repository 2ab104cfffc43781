"""The table: every row, in the order in which they run. Rows of the same services stand together."""

from faults.row import Row
from faults.rows import days, ingest, router, services, topics

ROWS: tuple[Row, ...] = (*ingest.ROWS, *services.ROWS, *topics.ROWS, *router.ROWS, *days.ROWS)
