"""Which letters a `meters dlq` command means: its options, their meaning, and the confirmation for many letters."""

import getpass
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, tzinfo
from typing import TYPE_CHECKING, Annotated

import typer
from pymongo.database import Database

from meter_cli.console import progress
from metering.errors import MetersError
from metering.letters import PAGE, Filters, State, find_ids, resolve_ids
from metering.settings import Settings
from metering.store import ensure_collections
from runtime.database import open_database

if TYPE_CHECKING:
    from streaming.dead_letters.index import DeadLetterIndex

PROGRESS_FROM_LETTERS = 2_000

Ids = Annotated[
    list[str] | None, typer.Argument(metavar="[ID]…", help="Ids as `meters dlq list` shows them.", show_default=False)
]
Reason = Annotated[str | None, typer.Option(help="Letters with this reason, like invalid_reading.")]
Device = Annotated[str | None, typer.Option(help="Letters of this meter.")]
Since = Annotated[str | None, typer.Option(help="Letters of this time and later: 2026-11-27 or 2026-11-27T08:30.")]
Until = Annotated[str | None, typer.Option(help="Letters before this time.")]
States = Annotated[list[State] | None, typer.Option("--state", help="Letters in this state; repeat it for more.")]
Limit = Annotated[int | None, typer.Option(min=1, help="That many letters at most.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
Yes = Annotated[bool, typer.Option("--yes", help=f"Do not ask, also for more than {PAGE} letters.")]
By = Annotated[str | None, typer.Option(help="Who does this; default: the user name.")]


@contextmanager
def open_letters(settings: Settings) -> "Iterator[tuple[Database, DeadLetterIndex]]":
    """The database, and the index after it has caught up with the topic.

    Raises:
        MetersError: MongoDB or Kafka does not answer.
    """
    from streaming.dead_letters.index import DeadLetterIndex

    with open_database(settings) as database:
        ensure_collections(database)
        with DeadLetterIndex(settings, database) as index, progress("letters") as bar:
            task = bar.add_task("reading new letters", total=None, visible=False)
            index.catch_up(
                lambda done, total: bar.update(
                    task, completed=done, total=total, visible=total >= PROGRESS_FROM_LETTERS
                )
            )
            bar.stop()
            yield database, index


def filters_for(
    settings: Settings,
    states: Sequence[State],
    *,
    reason: str | None,
    device: str | None,
    since: str | None,
    until: str | None,
) -> Filters:
    """The filters that the options mean; times without an offset are the city's.

    Raises:
        typer.BadParameter: a time is none.
    """
    return Filters(
        states=states,
        reason=reason,
        device=device,
        since=_moment(since, "--since", settings.zone),
        until=_moment(until, "--until", settings.zone),
    )


def choose(
    database: Database, ids: list[str] | None, filters: Filters, *, is_filtered: bool, limit: int | None
) -> list[str]:
    """The ids of the letters meant.

    Args:
        database: holds the index.
        ids: those that were given.
        filters: used where none were given.
        is_filtered: has the user given a filter, or asked for all?
        limit: letters at most.

    Raises:
        typer.BadParameter: neither ids nor filters were given, or both.
        MetersError: there is no such letter.
    """
    if ids and is_filtered:
        raise typer.BadParameter("give ids or filters, not both")
    if ids:
        return resolve_ids(database, ids)[:limit]
    if not is_filtered:
        raise typer.BadParameter("give ids, a filter like --reason, or --all")
    return find_ids(database, filters, limit or 0)


def confirm(letters: int, verb: str, *, yes: bool) -> None:
    """Ask before more than a page of letters is changed.

    Raises:
        MetersError: nobody is there to be asked.
        typer.Exit: the answer is no.
    """
    if letters <= PAGE or yes:
        return
    if not sys.stdin.isatty():
        raise MetersError(f"This would {verb} {letters:,} letters", fix="Add --yes, or --limit, or see --dry-run")
    if not typer.confirm(f"{verb.capitalize()} {letters:,} letters?", err=True):
        raise typer.Exit(1)


def user(by: str | None) -> str:
    """Who does this: the name given, else the user's."""
    if by:
        return by
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"


def _moment(text: str | None, option: str, zone: tzinfo) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter("write it like 2026-11-27 or 2026-11-27T08:30", param_hint=option) from None
    return moment if moment.tzinfo else moment.replace(tzinfo=zone)
