"""How dead letters are shown: as text that cannot steer a terminal, and as JSON."""

import base64
import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from metering.letters import Letter

if TYPE_CHECKING:
    from streaming.dead_letters.replay import Planned, Skipped

MAX_SHOWN_BYTES = 4096
MAX_PLAN_BYTES = 400
MAX_CELL_CHARACTERS = 60


def visible(text: str) -> Text:
    """The text with every character that is not printable as its escape, and without markup."""
    return Text(_printable(text))


def visible_bytes(value: bytes | None, limit: int = MAX_SHOWN_BYTES) -> Text:
    """The bytes as text; what is no UTF-8 as escapes, and no more than `limit` bytes of them."""
    if value is None:
        return Text("none", style="dim")
    shown = Text(_printable(value[:limit].decode("utf-8", "backslashreplace")))
    if len(value) > limit:
        shown.append(f" … {len(value) - limit:,} more bytes", style="dim")
    return shown


def letter_table(letters: Sequence[Letter]) -> Table:
    """One row per letter."""
    table = Table(box=None, pad_edge=False)
    for name in ("id", "since", "state", "reason", "device", "size", "tries", "why"):
        table.add_column(name, no_wrap=name == "id", justify="right" if name in ("size", "tries") else "left")
    for letter in letters:
        table.add_row(
            letter["short_id"],
            f"{letter['at']:%Y-%m-%d %H:%M:%SZ}",
            letter["state"],
            visible(_cut(letter["reason"])),
            visible(letter["device_id"] or ""),
            f"{letter['size']:,}",
            f"{letter['attempts']:,}",
            visible(_cut(_why(letter))),
        )
    return table


def letter_lines(letter: Letter, key: bytes | None, value: bytes | None, missing: str | None) -> Iterator[Text]:
    """Everything about one letter, a line each."""
    source = letter["source"] or {}
    origin = source.get("file") or "|".join(str(source[name]) for name in ("topic", "partition", "offset") if source)
    fields = {
        "id": letter["_id"],
        "short id": letter["short_id"],
        "since": f"{letter['at']:%Y-%m-%d %H:%M:%SZ}",
        "state": f"{letter['state']} since {letter['state_at']:%Y-%m-%d %H:%M:%SZ}",
        "came from": origin or "unknown",
        "refused by": letter["stage"],
        "reason": letter["reason"],
        "error": f"{letter['error']['class']}: {letter['error']['message']}",
        "device": letter["device_id"] or "unknown",
        "size": f"{letter['size']:,} bytes, SHA-256 {letter['sha256']}",
        "tries": f"{letter['attempts']:,}",
    }
    for name, text in fields.items():
        yield Text.assemble((f"{name:12}", "dim"), visible(text))
    for each in letter["replays"]:
        yield Text.assemble(("replay".ljust(12), "dim"), visible(_replay_line(each)))
    if dropped := letter["dropped"]:
        line = f"{dropped['at']:%Y-%m-%d %H:%M:%SZ} by {dropped['by']}: {dropped['why']}"
        yield Text.assemble(("dropped".ljust(12), "dim"), visible(line))
    if missing:
        yield Text.assemble(("payload".ljust(12), "dim"), visible(missing))
        return
    yield Text.assemble(("key".ljust(12), "dim"), visible_bytes(key, 200))
    yield Text.assemble(("payload".ljust(12), "dim"), visible_bytes(value))


def letter_json(letter: Letter) -> dict[str, Any]:
    """The letter for scripts, without its payload."""
    fields = {name: value for name, value in letter.items() if name not in ("_id", "key", "value")}
    replays = [{name: value for name, value in each.items() if name != "run"} for each in letter["replays"]]
    return {"id": letter["_id"], **fields, "replays": replays}


def payload_json(name: str, value: bytes | None) -> dict[str, str | None]:
    """`{name: text}` where the bytes are UTF-8, else `{name: null, name_base64: …}`."""
    if value is None:
        return {name: None}
    try:
        return {name: value.decode()}
    except UnicodeDecodeError:
        return {name: None, f"{name}_base64": base64.b64encode(value).decode()}


def plan_text(plan: "Planned | Skipped") -> Text:
    """What a replay would do with one letter, as it would be sent."""
    from streaming.dead_letters.replay import Planned

    if not isinstance(plan, Planned):
        return Text(f"{plan.letter} would not be sent: ").append(visible(plan.why))
    text = Text(f"{plan.letter['_id']} to {plan.topic}: ").append(visible_bytes(plan.value, MAX_PLAN_BYTES))
    return text.append("\n  would be refused again: ").append(visible(plan.verdict)) if plan.verdict else text


def plan_json(plan: "Planned | Skipped") -> dict[str, Any]:
    """The same for scripts."""
    from streaming.dead_letters.replay import Planned

    if not isinstance(plan, Planned):
        return {"id": plan.letter, "would_send": False, "why": plan.why}
    message = payload_json("key", plan.key) | payload_json("value", plan.value)
    return {"id": plan.letter["_id"], "would_send": True, "topic": plan.topic, "refusal": plan.verdict, **message}


def print_letters_json(value: Any) -> None:
    """Print JSON in ASCII alone: a payload that a terminal shows cannot steer it."""
    print(json.dumps(value, indent=2, default=_iso, ensure_ascii=True))


def _iso(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _why(letter: Letter) -> str:
    judged = [each for each in letter["replays"] if each["outcome"] == "refused"]
    if letter["state"] == "refused_again" and judged:
        return f"{judged[-1]['reason']}: {judged[-1]['message']}"
    return letter["error"]["message"]


def _replay_line(each: dict[str, Any]) -> str:
    parts = [f"{each['at']:%Y-%m-%d %H:%M:%SZ} by {each['by']}", each["outcome"] or "not judged yet"]
    if each["message"]:
        parts.append(f"{each['reason']}: {each['message']}")
    if each["take"]:
        parts.append("may replace the stored reading")
    if each["correction"]:
        parts.append(each["correction"])
    if each["why"]:
        parts.append(each["why"])
    return ", ".join(parts)


def _printable(text: str) -> str:
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape", "backslashreplace").decode("ascii")
        for each in text
    )


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CELL_CHARACTERS else text[: MAX_CELL_CHARACTERS - 1] + "…"
