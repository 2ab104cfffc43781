"""The dashboard, as data: which question stands where, and what it is called."""

from dataclasses import dataclass

from dashboards.questions import COMPLETENESS, CONSUMPTION, FAULTS_NOW, LATEST, WORST, Question

COLUMNS = 24
"""Width of Metabase's grid."""

COLLECTION_KEY = "collection"
COLLECTION_TITLE = "Smart metering"
COLLECTION_TEXT = "Consumption, faults and completeness of the city's meters."

DATABASE_KEY = "database"
DATABASE_TITLE = "Smart metering"
DATABASE_TEXT = "The platform's MongoDB, to be read."

DASHBOARD_KEY = "dashboard"
DASHBOARD_TITLE = "Smart metering"
DASHBOARD_TEXT = (
    "Consumption per local day, completeness and the worst meters over the last Days that have figures, counted back "
    "from Until (empty: the newest); the faults of now and the latest readings beside them."
)


@dataclass(frozen=True)
class Tile:
    """A question on the dashboard; places and sizes in cells of the grid."""

    question: Question
    row: int
    col: int
    width: int
    height: int


_WIDTH = COLUMNS // len(CONSUMPTION)

TILES = (
    *(Tile(each, row=0, col=_WIDTH * at, width=_WIDTH, height=7) for at, each in enumerate(CONSUMPTION.values())),
    Tile(FAULTS_NOW, row=7, col=0, width=COLUMNS, height=7),
    Tile(COMPLETENESS, row=14, col=0, width=12, height=7),
    Tile(WORST, row=14, col=12, width=12, height=7),
    Tile(LATEST, row=21, col=0, width=COLUMNS, height=8),
)
