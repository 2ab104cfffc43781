"""Bring a Metabase up to date with the definitions; safe to repeat.

Everything is written once, and again only when its definition has changed: what people change, add or copy in Metabase
stays. What is gone there, archived or deleted, is made anew.
"""

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pymongo.errors import PyMongoError
from pymongo.uri_parser import parse_uri

from dashboards.client import Json, Metabase, check_version
from dashboards.layout import (
    COLLECTION_KEY,
    COLLECTION_TEXT,
    COLLECTION_TITLE,
    DASHBOARD_KEY,
    DASHBOARD_TEXT,
    DASHBOARD_TITLE,
    DATABASE_KEY,
    DATABASE_TITLE,
    TILES,
)
from dashboards.marker import Kept, begun, described, fingerprint, kept_among
from dashboards.merge import merged_dashboard
from dashboards.questions import FILTERS, QUESTIONS, Question
from metering.errors import MetersError
from metering.settings import Settings

CREATED, UPDATED, UNCHANGED, ABANDONED = "created", "updated", "unchanged", "abandoned"


@dataclass(frozen=True)
class Step:
    """What became of one thing: `abandoned` is a question of ours that is no longer defined; it stays as it is."""

    kind: str
    name: str
    action: str
    id: int | None = None


@dataclass
class Report:
    """What a run did, or would do."""

    url: str
    version: str
    is_newer: bool
    steps: list[Step] = field(default_factory=list)

    @property
    def changes(self) -> int:
        """How many things are new or changed."""
        return sum(step.action in (CREATED, UPDATED) for step in self.steps)


@dataclass(frozen=True)
class Target:
    """Where to provision, and as whom; the URI is what Metabase reaches MongoDB with."""

    url: str
    email: str
    password: str
    mongo_uri: str


def target_of(settings: Settings) -> Target:
    """What the settings say.

    Raises:
        MetersError: one is missing, or the URI names no database.
    """
    wanted = ("metabase_url", "metabase_admin_email", "metabase_admin_password", "metabase_mongo_uri")
    missing = [f"METERS_{name.upper()}" for name in wanted if not getattr(settings, name)]
    if missing:
        raise MetersError(f"Metabase cannot be provisioned without {', '.join(missing)}", fix="See docs/dashboards.md")
    url, email = settings.metabase_url, settings.metabase_admin_email
    password, uri = settings.metabase_admin_password, settings.metabase_mongo_uri
    assert url and email and password and uri  # noqa: S101 - seen above
    try:
        database = parse_uri(uri.get_secret_value())["database"]
    except (PyMongoError, ValueError):  # whose message may hold parts of the URI
        raise MetersError("METERS_METABASE_MONGO_URI is not a usable MongoDB URI") from None
    if database != settings.mongo_database:
        raise MetersError(
            f"METERS_METABASE_MONGO_URI names {f'the database {database}' if database else 'no database'}",
            fix=f"Write mongodb://user:password@host:27017/{settings.mongo_database}?…; Metabase takes it from there",
        )
    return Target(url.rstrip("/"), email, password.get_secret_value(), uri.get_secret_value())


def provision(target: Target, *, wait_seconds: float, dry_run: bool = False, poll_seconds: float = 1.0) -> Report:
    """Set Metabase up if nobody has, and bring connection, questions and dashboard up to date.

    Args:
        target: which Metabase.
        wait_seconds: how long to wait for it to be up.
        dry_run: change nothing, and say what would change.
        poll_seconds: between two looks whether it is up.

    Raises:
        MetersError: it is not up, not supported, does not let us in, or refuses something.
    """
    metabase = Metabase(target.url, secrets=(target.password, target.mongo_uri))
    try:
        metabase.wait_until_healthy(wait_seconds, poll_seconds)
        properties = metabase.properties()
        report = Report(target.url, *check_version(target.url, properties))
        is_new = not properties.get("has-user-setup")
        if is_new:
            report.steps.append(Step("administrator", target.email, CREATED))
        if is_new and dry_run:
            _Run(None, target, report, dry_run).everything()
            return report
        token = properties.get("setup-token")
        if not (is_new and token and metabase.set_up(token, target.email, target.password, COLLECTION_TITLE)):
            report.steps.clear()
            metabase.log_in(target.email, target.password)
        _Run(metabase, target, report, dry_run).everything()
        return report
    finally:
        metabase.log_out()


class _Run:
    """One run over all definitions.

    Args:
        metabase: logged in; None: one that holds nothing, for a dry run.
        target: which Metabase.
        report: to be filled.
        dry_run: change nothing.
    """

    def __init__(self, metabase: Metabase | None, target: Target, report: Report, dry_run: bool) -> None:
        self._metabase = metabase
        self._target = target
        self._report = report
        self._dry_run = dry_run

    def everything(self) -> None:
        """Each after those that it needs the id of."""
        database = self._database()
        collection = self._collection()
        kept = self._items(collection)
        cards = {
            question.key: self._question(question, kept.get(question.key), database, collection)
            for question in QUESTIONS
        }
        self._dashboard(kept.get(DASHBOARD_KEY), cards, collection)
        known = {DASHBOARD_KEY, *cards}
        self._report.steps += [Step("question", key, ABANDONED, kept[key].id) for key in kept if key not in known]

    def _database(self) -> int | None:
        uri = self._target.mongo_uri
        # A fingerprint that people can read must not help anybody to guess the password in the URI.
        sealed = hmac.new(self._target.password.encode(), uri.encode(), hashlib.sha256).hexdigest()
        details = {"use-conn-uri": True, "conn-uri": uri, "let-user-control-scheduling": True}
        # The questions are native queries: names of collections and fields suffice, values need not be scanned.
        body = {"name": DATABASE_TITLE, "engine": "mongo", "is_full_sync": False, "details": details}
        text = "The platform's MongoDB, to be read."
        return self._keep(
            "database connection",
            "/api/database",
            kept_among(self._get("/api/database", "data")).get(DATABASE_KEY),
            key=DATABASE_KEY,
            name=DATABASE_TITLE,
            definition=[{**body, "details": sealed}, text],
            create=lambda: {**body, "name": begun(DATABASE_TITLE, DATABASE_KEY)},  # the API takes no description here
            change=lambda _: body,
            text=text,
        )

    def _collection(self) -> int | None:
        body = {"name": COLLECTION_TITLE}
        return self._keep(
            "collection",
            "/api/collection",
            kept_among(self._get("/api/collection")).get(COLLECTION_KEY),
            key=COLLECTION_KEY,
            name=COLLECTION_TITLE,
            definition=[body, COLLECTION_TEXT],
            create=lambda: {**body, "description": begun(COLLECTION_TEXT, COLLECTION_KEY)},
            change=lambda _: body,
            text=COLLECTION_TEXT,
        )

    def _items(self, collection: int | None) -> dict[str, Kept]:
        if collection is None:
            return {}
        return kept_among(self._get(f"/api/collection/{collection}/items", "data", models=["card", "dashboard"]))

    def _question(
        self, question: Question, kept: Kept | None, database: int | None, collection: int | None
    ) -> int | None:
        tags = {each.name: each.template_tag() for each in question.filters}
        native = {"query": question.query, "collection": question.collection, "template-tags": tags}
        body = {
            "name": question.title,
            "type": "question",
            "display": question.display,
            "visualization_settings": question.settings,
            "dataset_query": {"type": "native", "database": database, "native": native},
            "parameters": [{"id": each.tag_id, "target": each.target, **each.parameter()} for each in question.filters],
            "collection_id": collection,
        }
        return self._keep(
            "question",
            "/api/card",
            kept,
            key=question.key,
            name=question.title,
            definition=[body, question.text],
            create=lambda: {**body, "description": begun(question.text, question.key)},
            change=lambda _: body,
            text=question.text,
        )

    def _dashboard(self, kept: Kept | None, cards: dict[str, int | None], collection: int | None) -> None:
        parameters = [{"id": each.parameter_id, "sectionId": each.section, **each.parameter()} for each in FILTERS]
        dashcards = [
            {
                "card_id": cards[tile.question.key],
                "row": tile.row,
                "col": tile.col,
                "size_x": tile.width,
                "size_y": tile.height,
                "visualization_settings": {},
                "parameter_mappings": [
                    # Without its card_id Metabase passes over a mapping and says nothing.
                    {"parameter_id": each.parameter_id, "card_id": cards[tile.question.key], "target": each.target}
                    for each in tile.question.filters
                ],
            }
            for tile in TILES
        ]
        body = {"name": DASHBOARD_TITLE, "parameters": parameters, "dashcards": dashcards}
        first = {"name": DASHBOARD_TITLE, "collection_id": collection}
        self._keep(
            "dashboard",
            "/api/dashboard",
            kept,
            key=DASHBOARD_KEY,
            name=DASHBOARD_TITLE,
            definition=[body, DASHBOARD_TEXT, collection],
            create=lambda: {**first, "description": begun(DASHBOARD_TEXT, DASHBOARD_KEY)},
            change=lambda id_: merged_dashboard(body, self._get(f"/api/dashboard/{id_}")),
            text=DASHBOARD_TEXT,
        )

    def _get(self, path: str, key: str | None = None, **parameters: Any) -> Any:
        if self._metabase is None:
            return []
        answer = self._metabase.get(path, **parameters)
        return answer[key] if key else answer

    def _keep(
        self,
        kind: str,
        path: str,
        kept: Kept | None,
        *,
        key: str,
        name: str,
        definition: Any,
        create: Callable[[], Json],
        change: Callable[[int], Json],
        text: str,
    ) -> int | None:
        """Have one thing be as defined.

        Args:
            kind: what people call such a thing.
            path: of such things in the API.
            kept: it, if it is there.
            key: its definition's key.
            name: its name.
            definition: all that it follows from; to be compared with what was last written.
            create: the body that creates it.
            change: the body that makes it as defined, for its id.
            text: its description, without our own line.

        Returns:
            Its id; None if it is still to be created, in a dry run.
        """
        mark = fingerprint(definition)
        action = CREATED if not kept else UNCHANGED if kept.fingerprint == mark else UPDATED
        id_ = kept.id if kept else None
        what = f"the {kind} {name}"
        if self._metabase and not self._dry_run and action != UNCHANGED:
            if id_ is None:
                id_ = int(self._metabase.post(path, create(), what)["id"])
            body = {**change(id_), "description": described(text, Kept(key, id_, mark))}
            self._metabase.put(f"{path}/{id_}", body, what)
        self._report.steps.append(Step(kind, name, action, id_))
        return id_
