"""`meters dlq`: look at dead letters, send them again, drop them."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from meter_cli.console import counted, err, out, progress
from meter_cli.dlq_choice import (
    By,
    Device,
    Ids,
    Json,
    Limit,
    Reason,
    Since,
    States,
    Until,
    Yes,
    choose,
    confirm,
    filters_for,
    open_letters,
    user,
)
from meter_cli.dlq_view import (
    letter_json,
    letter_lines,
    letter_table,
    payload_json,
    plan_json,
    plan_text,
    print_letters_json,
    visible,
)
from metering.errors import MetersError
from metering.letters import (
    PAGE,
    UNSETTLED,
    WORKABLE,
    State,
    count_letters,
    count_states,
    drop_letters,
    find_letters,
    read_letters,
    resolve_ids,
    undo_drop,
)
from metering.settings import load_settings

if TYPE_CHECKING:
    from streaming.dead_letters.replay import Planned, Skipped

app = typer.Typer(
    help="Dead letters: look at refused messages, send them again, drop them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

MAX_SHOWN_SKIPPED = 10


@app.command("list")
def list_(
    reason: Reason = None,
    device: Device = None,
    since: Since = None,
    until: Until = None,
    state: States = None,
    everything: Annotated[bool, typer.Option("--all", help="Letters in every state.")] = False,
    limit: Limit = PAGE,
    as_json: Json = False,
) -> None:
    """List the letters that are not settled, the newest first."""
    settings = load_settings()
    states = state or (tuple(State) if everything else UNSETTLED)
    filters = filters_for(settings, states, reason=reason, device=device, since=since, until=until)
    with open_letters(settings) as (database, _):
        letters = list(find_letters(database, filters, limit or PAGE))
        matching = count_letters(database, filters)
        counts = count_states(database)
    if as_json:
        shown = [letter_json(letter) for letter in letters]
        print_letters_json({"letters": shown, "matching": matching, "states": counts})
    elif letters:
        out.print(letter_table(letters))
        more = f"; {matching - len(letters):,} more: --limit" if matching > len(letters) else ""
        err.print(f"{counted(matching, 'letter')}{more}. Next: meters dlq show ID, or replay or drop", soft_wrap=True)
    else:
        is_filtered = any((reason, device, since, until, state))
        out.print(_nothing(counts, is_filtered=is_filtered), soft_wrap=True)


def _nothing(counts: dict[str, int], *, is_filtered: bool) -> str:
    if not sum(counts.values()):
        return "No dead letters. Ingest keeps here what it refuses: meters ingest"
    kept = ", ".join(f"{state} {number:,}" for state, number in counts.items() if number)
    return f"No dead letters {'match' if is_filtered else 'wait'} ({kept}). See them: meters dlq list --all"


@app.command()
def show(
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="As `meters dlq list` shows it.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Show a letter: where it came from, why it was refused, what was tried, and its payload."""
    key = value = missing = None
    with open_letters(load_settings()) as (database, index):
        (letter,) = read_letters(database, resolve_ids(database, [letter_id]))
        try:
            key, value = index.payload(letter)
        except MetersError as error:
            missing = error.message
    if as_json:
        payload = {"payload_missing": missing} if missing else payload_json("key", key) | payload_json("value", value)
        print_letters_json(letter_json(letter) | payload)
        return
    for line in letter_lines(letter, key, value, missing):
        out.print(line, soft_wrap=True)


@app.command()
def replay(
    ids: Ids = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Correct a field; the value is JSON, else text."),
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option("--unset", metavar="FIELD", help="Leave a field out of the message.")
    ] = None,
    take: Annotated[
        bool, typer.Option("--take", help="Replace the stored reading that the message contradicts; the old is kept.")
    ] = False,
    why: Annotated[str, typer.Option(help="Why, for the record.")] = "",
    reason: Reason = None,
    device: Device = None,
    since: Since = None,
    until: Until = None,
    state: States = None,
    everything: Annotated[bool, typer.Option("--all", help="All letters that are open or refused again.")] = False,
    limit: Limit = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be sent.")] = False,
    yes: Yes = False,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Send letters' messages to their topics again; ingest judges them like any other message."""
    from streaming.dead_letters.correction import Correction, parse_assignments
    from streaming.dead_letters.replay import LetterReplay

    settings = load_settings()
    correction = Correction(parse_assignments(assignments or []), tuple(without or ()))
    filters = filters_for(settings, state or WORKABLE, reason=reason, device=device, since=since, until=until)
    is_filtered = any((reason, device, since, until, state, everything))
    with open_letters(settings) as (database, index):
        chosen = choose(database, ids, filters, is_filtered=is_filtered, limit=limit)
        work = LetterReplay(settings, database, index, by=user(by), why=why, take=take, correction=correction)
        if dry_run:
            _print_plans(list(work.plan(chosen)), as_json=as_json)
            return
        confirm(len(chosen), "replay", yes=yes)
        with progress("letters") as bar:
            task = bar.add_task("sending", total=len(chosen))
            outcome = work.send(chosen, lambda done: bar.update(task, completed=done))
    if as_json:
        print_letters_json({"sent": outcome.sent, "skipped": [asdict(each) for each in outcome.skipped]})
    elif outcome.sent:
        out.print(
            f"Sent {counted(len(outcome.sent), 'message')} again. Have them judged: meters ingest. "
            "What became of them: meters dlq list --all",
            soft_wrap=True,
        )
    elif not chosen:
        out.print("No letter matches; nothing was sent. See them: meters dlq list --all", soft_wrap=True)
    if outcome.skipped:
        for each in outcome.skipped[:MAX_SHOWN_SKIPPED]:
            err.print(Text(f"{each.letter}: ").append(visible(each.why)), soft_wrap=True)
        raise MetersError(f"Not sent: {len(outcome.skipped):,} of {counted(len(chosen), 'letter')}")


def _print_plans(plans: "list[Planned | Skipped]", *, as_json: bool) -> None:
    if as_json:
        print_letters_json([plan_json(plan) for plan in plans])
        return
    for plan in plans:
        out.print(plan_text(plan), soft_wrap=True)
    err.print(f"{counted(len(plans), 'letter')}; nothing was sent")


@app.command()
def drop(
    ids: Ids = None,
    why: Annotated[str, typer.Option(help="Why, for the record; required unless --undo.")] = "",
    undo: Annotated[bool, typer.Option("--undo", help="Give dropped letters their former state back.")] = False,
    reason: Reason = None,
    device: Device = None,
    since: Since = None,
    until: Until = None,
    state: States = None,
    everything: Annotated[bool, typer.Option("--all", help="All letters that are not settled.")] = False,
    limit: Limit = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show how many letters it would be.")] = False,
    yes: Yes = False,
    by: By = None,
    as_json: Json = False,
) -> None:
    """Mark letters as dropped, so that they leave the list; nothing is deleted."""
    if not why and not undo:
        raise typer.BadParameter("write down why: --why TEXT", param_hint="--why")
    settings = load_settings()
    meant = (State.DROPPED,) if undo else (state or WORKABLE)
    filters = filters_for(settings, meant, reason=reason, device=device, since=since, until=until)
    is_filtered = any((reason, device, since, until, state, everything))
    verb = "give back the state of" if undo else "drop"
    with open_letters(settings) as (database, _):
        chosen = choose(database, ids, filters, is_filtered=is_filtered, limit=limit)
        changed = 0
        if not dry_run:
            confirm(len(chosen), verb, yes=yes)
            if undo:
                changed = undo_drop(database, chosen)
            else:
                changed = drop_letters(database, chosen, by=user(by), why=why)
    if as_json:
        print_letters_json({"letters": chosen, "changed": changed})
    elif dry_run:
        out.print(f"Would {verb} {counted(len(chosen), 'letter')}; nothing was changed")
    elif undo:
        out.print(f"{counted(changed, 'letter')} no longer dropped")
    else:
        out.print(f"{counted(changed, 'letter')} dropped. Take it back: meters dlq drop --undo ID", soft_wrap=True)
    if changed < len(chosen) and not dry_run:
        err.print(f"{counted(len(chosen) - changed, 'letter')} left as before", soft_wrap=True)
