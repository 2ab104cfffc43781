"""What Metabase's API takes: the fields of each body, as its schemas of 0.63 have them. All are closed.

The rules beyond fields are those that Metabase keeps when a question runs: variables are declared, filters map to them.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

Json = dict[str, Any]
Check = type | tuple[type, ...] | dict[str, Any] | list[Any]

NOTHING = type(None)
GRID_COLUMNS = 24


class Refusal(Exception):
    """An answer that is none of success."""

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(f"{status}: {body}")
        self.status = status
        self.body = body


def refuse(field: str, why: str) -> Refusal:
    """HTTP 400 with `errors`, as Metabase answers a body that its schema does not take."""
    return Refusal(400, {"errors": {field: why}, "specific-errors": {field: [why]}})


TEXT = (str, NOTHING)
NUMBER = (int, NOTHING)

TARGET: list[Any] = [object]
PARAMETER: Json = {
    "id!": str,
    "type!": str,
    "name": str,
    "slug": str,
    "sectionId": str,
    "default": object,
    "target": TARGET,
}
PARAMETERS = [PARAMETER]
DASHCARD: Json = {
    "id!": int,
    "size_x!": int,
    "size_y!": int,
    "row!": int,
    "col!": int,
    "card_id": NUMBER,
    "action_id": NUMBER,
    "dashboard_tab_id": NUMBER,
    "parameter_mappings": [{"parameter_id!": str, "target!": TARGET, "card_id": int}],
    "visualization_settings": dict,
    "inline_parameters": [str],
    "series": [{"id!": int}],
}
_CARD: Json = {
    "name!": str,
    "type": str,
    "dataset_query!": dict,
    "parameters": PARAMETERS,
    "description": TEXT,
    "display!": str,
    "visualization_settings!": dict,
    "collection_id": NUMBER,
    "collection_position": NUMBER,
    "cache_ttl": NUMBER,
    "dashboard_id": NUMBER,
}
_DATABASE: Json = {
    "name!": str,
    "engine!": str,
    "details!": dict,
    "is_full_sync": bool,
    "is_on_demand": bool,
    "schedules": dict,
    "auto_run_queries": bool,
}


def _optional(schema: Json, **more: Any) -> Json:
    return {name.rstrip("!"): value for name, value in schema.items()} | more


SCHEMAS: dict[str, Json] = {
    "POST /api/setup": {
        "token!": str,
        "user!": {
            "email!": str,
            "password!": str,
            "first_name": TEXT,
            "last_name": TEXT,
            "site_name": TEXT,
            "password_confirm": TEXT,
        },
        "prefs!": {"site_name!": str, "site_locale": TEXT, "allow_tracking": (bool, str, NOTHING)},
        "database": dict,
    },
    "POST /api/session": {"username!": str, "password!": str},
    "POST /api/database": _DATABASE,
    r"PUT /api/database/(\d+)": _optional(_DATABASE, description=TEXT, caveats=TEXT, points_of_interest=TEXT),
    "POST /api/collection": {"name!": str, "description": TEXT, "parent_id": NUMBER, "namespace": TEXT},
    r"PUT /api/collection/(\d+)": {"name": str, "description": TEXT, "archived": bool, "parent_id": NUMBER},
    "POST /api/card": _CARD,
    r"PUT /api/card/(\d+)": _optional(_CARD, archived=bool, collection_preview=bool, enable_embedding=bool),
    "POST /api/dashboard": {
        "name!": str,
        "description": TEXT,
        "parameters": PARAMETERS,
        "collection_id": NUMBER,
        "collection_position": NUMBER,
        "cache_ttl": NUMBER,
    },
    r"PUT /api/dashboard/(\d+)": {
        "name": str,
        "description": TEXT,
        "parameters": PARAMETERS,
        "width": str,
        "archived": bool,
        "auto_apply_filters": bool,
        "collection_id": NUMBER,
        "dashcards": [DASHCARD],
        "tabs": [{"id!": int, "name!": str, "position": int}],
    },
}


def check(value: Any, schema: Check, name: str = "body") -> None:
    """Refuse a value that is not of the schema; `!` marks required fields.

    Raises:
        Refusal: it is not.
    """
    if isinstance(schema, dict):
        if not isinstance(value, dict):
            raise refuse(name, "value must be a map")
        known = {field.rstrip("!"): each for field, each in schema.items()}
        if unknown := set(value) - set(known):
            raise refuse(name, f"disallowed key: {', '.join(sorted(unknown))}")
        for field in schema:
            if field.endswith("!") and value.get(field[:-1]) in (None, ""):
                raise refuse(field[:-1], "missing required key")
        for field, each in value.items():
            check(each, known[field], field)
    elif isinstance(schema, list):
        if not isinstance(value, list):
            raise refuse(name, "value must be a sequence")
        for each in value:
            check(each, schema[0], name)
    elif not isinstance(value, schema) or (isinstance(value, bool) and schema in (int, NUMBER)):
        raise refuse(name, f"value is of the wrong type: {type(value).__name__}")


PARAMETER_TYPES = {"number": ("number/=",), "date": ("date/single",), "text": ("string/=",)}
"""Types of parameters that may set a variable of a type."""


def check_card(card: Json) -> None:
    """Refuse a native question whose variables or parameters do not hold together."""
    query = card["dataset_query"]
    check(query, {"type!": str, "database!": int, "native!": dict})
    native = query["native"]
    check(native, {"query!": str, "collection!": str, "template-tags": dict})
    tags = native.get("template-tags", {})
    for name, tag in tags.items():
        fields = {"id!": str, "name!": str, "display-name!": str, "type!": str, "default": object, "required": bool}
        check(tag, fields, f"template tag {name}")
        if tag["name"] != name:
            raise refuse("template-tags", "keys in template tag map must match the :name of their values")
    named = set(re.findall(r"\{\{\s*(\w+)\s*\}\}", native["query"]))
    if named != set(tags):
        raise refuse("template-tags", f"the query names {sorted(named)}, declared are {sorted(tags)}")
    for parameter in card.get("parameters", []):
        _check_target(parameter.get("target"), parameter["type"], tags)


def _check_target(target: Any, parameter_type: str, tags: Mapping[str, Json]) -> None:
    tag = target[1][1] if isinstance(target, list) and target[0] == "variable" else ""
    if tag not in tags:
        raise refuse("target", f"it maps to nothing: {target}")
    if parameter_type not in PARAMETER_TYPES[tags[tag]["type"]]:
        raise refuse("target", f"a {parameter_type} may not set a variable of type {tags[tag]['type']}")


def check_dashcards(dashboard: Json, cards: Mapping[int, Json], present: Collection[int]) -> None:
    """Refuse tiles that overlap, stand outside the grid, show nothing, or whose filters map to nothing."""
    ids = [tile["id"] for tile in dashboard["dashcards"]]
    if len(set(ids)) != len(ids):
        raise refuse("dashcards", "value must be seq of maps in which ids are unique")
    if dashboard["tabs"] and any(tile.get("dashboard_tab_id") is None for tile in dashboard["dashcards"]):
        raise Refusal(400, "This dashboard has tab, makes sure every card has a tab")
    taken: set[tuple[int | None, int, int]] = set()
    types = {parameter["id"]: parameter["type"] for parameter in dashboard["parameters"]}
    for tile in dashboard["dashcards"]:
        if tile["id"] > 0 and tile["id"] not in present:
            raise Refusal(404, "Not found.")
        if tile["col"] + tile["size_x"] > GRID_COLUMNS:
            raise refuse("dashcards", "outside the grid")
        cells = {
            (tile.get("dashboard_tab_id"), row, col)
            for row in range(tile["row"], tile["row"] + tile["size_y"])
            for col in range(tile["col"], tile["col"] + tile["size_x"])
        }
        if cells & taken:
            raise refuse("dashcards", "two tiles overlap")
        taken |= cells
        card = cards.get(tile.get("card_id") or 0)
        if tile.get("card_id") and (not card or card["archived"]):
            raise Refusal(404, "Not found.")
        for mapping in tile.get("parameter_mappings", []):
            if mapping.get("card_id") != tile.get("card_id") or mapping["parameter_id"] not in types or not card:
                raise refuse("parameter_mappings", "it would be passed over")
            tags = card["dataset_query"]["native"].get("template-tags", {})
            _check_target(mapping["target"], types[mapping["parameter_id"]], tags)
