"""Each thing of the definitions as the bodies that Metabase's API takes, and what they are compared by."""

import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dashboards.client import Json
from dashboards.layout import (
    COLLECTION_KEY,
    COLLECTION_TEXT,
    COLLECTION_TITLE,
    DASHBOARD_KEY,
    DASHBOARD_TEXT,
    DASHBOARD_TITLE,
    DATABASE_KEY,
    DATABASE_TEXT,
    DATABASE_TITLE,
    TILES,
)
from dashboards.marker import begun
from dashboards.merge import merged_dashboard
from dashboards.questions import FILTERS, Question


@dataclass(frozen=True)
class Definition:
    """One thing that Metabase is to have.

    Args:
        kind: what people call such a thing.
        path: of such things in the API.
        key: what it is known by for ever.
        text: its description, without our own line.
        body: what makes it as defined, but for the description; it has a `name`.
        creation: the body that creates it; Metabase takes less of some things then.
        compared: what its fingerprint is of.
        merge: makes of the body and of the thing as it stands the body to be written.
    """

    kind: str
    path: str
    key: str
    text: str
    body: Json
    creation: Json
    compared: Any
    merge: Callable[[Json, Json], Json] | None = None


def database_connection(mongo_uri: str, password: str) -> Definition:
    """The connection to MongoDB.

    Args:
        mongo_uri: with the database in its path.
        password: of the administrator. The fingerprint is keyed with it: people can read that, and it must not help
            anybody to guess the password in the URI.
    """
    sealed = hmac.new(password.encode(), mongo_uri.encode(), hashlib.sha256).hexdigest()
    details = {"use-conn-uri": True, "conn-uri": mongo_uri, "let-user-control-scheduling": True}
    # The questions are native queries: names of collections and fields suffice, values need not be scanned.
    body = {"name": DATABASE_TITLE, "engine": "mongo", "is_full_sync": False, "details": details}
    return Definition(
        kind="database connection",
        path="/api/database",
        key=DATABASE_KEY,
        text=DATABASE_TEXT,
        body=body,
        creation={**body, "name": begun(DATABASE_TITLE, DATABASE_KEY)},  # no description is taken yet
        compared=[{**body, "details": sealed}, DATABASE_TEXT],
    )


def collection() -> Definition:
    """The folder of all that follows."""
    body = {"name": COLLECTION_TITLE}
    return Definition(
        kind="collection",
        path="/api/collection",
        key=COLLECTION_KEY,
        text=COLLECTION_TEXT,
        body=body,
        creation={**body, "description": begun(COLLECTION_TEXT, COLLECTION_KEY)},
        compared=[body, COLLECTION_TEXT],
    )


def question_card(question: Question, database_id: int | None, collection_id: int | None) -> Definition:
    """A question."""
    tags = {each.name: each.template_tag() for each in question.filters}
    native = {"query": question.query, "collection": question.collection, "template-tags": tags}
    body = {
        "name": question.title,
        "type": "question",
        "display": question.display,
        "visualization_settings": question.settings,
        "dataset_query": {"type": "native", "database": database_id, "native": native},
        "parameters": [{"id": each.tag_id, "target": each.target, **each.parameter()} for each in question.filters],
        "collection_id": collection_id,
    }
    return Definition(
        kind="question",
        path="/api/card",
        key=question.key,
        text=question.text,
        body=body,
        creation={**body, "description": begun(question.text, question.key)},
        compared=[body, question.text],
    )


def dashboard(card_ids: Mapping[str, int | None], collection_id: int | None) -> Definition:
    """The dashboard, of the questions with these ids."""
    body = {
        "name": DASHBOARD_TITLE,
        "parameters": [{"id": each.parameter_id, "sectionId": each.kind, **each.parameter()} for each in FILTERS],
        "dashcards": [
            {
                "card_id": card_ids[tile.question.key],
                "row": tile.row,
                "col": tile.col,
                "size_x": tile.width,
                "size_y": tile.height,
                "visualization_settings": {},
                "parameter_mappings": [
                    # Without its card_id Metabase passes over a mapping and says nothing.
                    {"parameter_id": each.parameter_id, "card_id": card_ids[tile.question.key], "target": each.target}
                    for each in tile.question.filters
                ],
            }
            for tile in TILES
        ],
    }
    described = begun(DASHBOARD_TEXT, DASHBOARD_KEY)
    return Definition(
        kind="dashboard",
        path="/api/dashboard",
        key=DASHBOARD_KEY,
        text=DASHBOARD_TEXT,
        body=body,
        creation={"name": DASHBOARD_TITLE, "collection_id": collection_id, "description": described},
        compared=[body, DASHBOARD_TEXT],
        merge=merged_dashboard,
    )
