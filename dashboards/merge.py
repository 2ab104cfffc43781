"""A new layout of our dashboard, without taking from it what people have put there."""

from typing import Any

from dashboards.client import Json

_WRITABLE = (
    "id",
    "card_id",
    "action_id",
    "dashboard_tab_id",
    "row",
    "col",
    "size_x",
    "size_y",
    "parameter_mappings",
    "visualization_settings",
    "inline_parameters",
)
"""Fields of a tile that may be sent back; Metabase shows more than it takes."""


def merged_dashboard(defined: Json, present: Json) -> Json:
    """The body that brings the dashboard to its definition; tiles, filters and tabs of people stay.

    A tile of theirs that one of ours would hide moves below all others.

    Args:
        defined: name, parameters and dashcards, these without ids.
        present: the dashboard as Metabase shows it.
    """
    tiles = present.get("dashcards") or []
    tabs = present.get("tabs") or []
    ours = {tile["card_id"] for tile in defined["dashcards"]}
    standing: dict[int, Json] = {}
    for tile in tiles:
        if tile.get("card_id") in ours:
            standing.setdefault(tile["card_id"], tile)
    dashcards = []
    for number, tile in enumerate(defined["dashcards"], start=1):
        place: Json = standing.get(tile["card_id"], {})
        tab = place.get("dashboard_tab_id") or (tabs[0]["id"] if tabs else None)
        dashcards.append({**tile, "id": place.get("id", -number), "dashboard_tab_id": tab})  # negative: a new one
    kept_ids = {tile["id"] for tile in dashcards}
    bottom = max(tile["row"] + tile["size_y"] for tile in [*dashcards, *tiles])
    for tile in tiles:
        if tile["id"] not in kept_ids:
            hidden = any(_overlap(tile, each) for each in dashcards)
            dashcards.append({**_sent_back(tile), "row": bottom if hidden else tile["row"]})
            bottom += tile["size_y"] if hidden else 0
    filters = {each["id"] for each in defined["parameters"]}
    others = [each for each in present.get("parameters") or [] if each["id"] not in filters]
    merged = {**defined, "dashcards": dashcards, "parameters": [*defined["parameters"], *others]}
    return {**merged, "tabs": [{"id": tab["id"], "name": tab["name"]} for tab in tabs]} if tabs else merged


def _sent_back(tile: dict[str, Any]) -> Json:
    fields = {name: tile[name] for name in _WRITABLE if tile.get(name) is not None}
    return {**fields, "series": [{"id": card["id"]} for card in tile.get("series") or []]}


def _overlap(one: Json, other: Json) -> bool:
    return (
        one.get("dashboard_tab_id") == other.get("dashboard_tab_id")
        and one["row"] < other["row"] + other["size_y"]
        and other["row"] < one["row"] + one["size_y"]
        and one["col"] < other["col"] + other["size_x"]
        and other["col"] < one["col"] + one["size_x"]
    )
