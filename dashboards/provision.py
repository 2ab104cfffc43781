"""Bring a Metabase up to date with the definitions; safe to repeat.

Everything is written once, and again only when its definition has changed: what people change, add or copy in Metabase
stays. What is gone there, archived or deleted, is made anew.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pymongo.errors import PyMongoError
from pymongo.uri_parser import parse_uri

from dashboards import definitions
from dashboards.client import Metabase, check_version
from dashboards.definitions import Definition
from dashboards.layout import COLLECTION_TITLE
from dashboards.marker import Kept, described, fingerprint, kept_among
from dashboards.questions import QUESTIONS
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

    @property
    def secrets(self) -> list[str]:
        """What no message may show."""
        return [self.password, self.mongo_uri, *filter(None, [parse_uri(self.mongo_uri)["password"]])]


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
    metabase = Metabase(target.url, secrets=target.secrets)
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
        connection = definitions.database_connection(self._target.mongo_uri, self._target.password)
        database_id = self._keep(connection, kept_among(self._get(connection.path).get("data", [])))
        folder = definitions.collection()
        collection_id = self._keep(folder, kept_among(self._get(folder.path) or []))
        items = self._get(f"{folder.path}/{collection_id}/items?models=card&models=dashboard") if collection_id else {}
        kept = kept_among(items.get("data", []))
        cards = [definitions.question_card(question, database_id, collection_id) for question in QUESTIONS]
        card_ids = {card.key: self._keep(card, kept) for card in cards}
        overview = definitions.dashboard(card_ids, collection_id)
        self._keep(overview, kept)
        others = kept.keys() - card_ids.keys() - {overview.key}
        self._report.steps += [Step("question", key, ABANDONED, kept[key].id) for key in sorted(others)]

    def _get(self, path: str) -> Any:
        return self._metabase.get(path) if self._metabase else {}

    def _keep(self, definition: Definition, found: Mapping[str, Kept]) -> int | None:
        """Have one thing be as defined, if it is not.

        Args:
            definition: it.
            found: our own among the things of its kind.

        Returns:
            Its id; None if it is still to be created, in a dry run.
        """
        kept = found.get(definition.key)
        mark = fingerprint(definition.compared)
        action = CREATED if not kept else UNCHANGED if kept.fingerprint == mark else UPDATED
        id_ = kept.id if kept else None
        name = definition.body["name"]
        if self._metabase and not self._dry_run and action != UNCHANGED:
            what = f"the {definition.kind} {name}"
            if id_ is None:
                id_ = int(self._metabase.post(definition.path, definition.creation, what)["id"])
            place = f"{definition.path}/{id_}"
            merge = definition.merge
            body = merge(definition.body, self._metabase.get(place)) if merge else definition.body
            text = described(definition.text, Kept(definition.key, id_, mark))
            self._metabase.put(place, {**body, "description": text}, what)
        self._report.steps.append(Step(definition.kind, name, action, id_))
        return id_
