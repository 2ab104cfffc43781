"""How what we have made in Metabase is known again: by the last line of its description.

    [meters dashboards: worst_meters #17 3f9a12bc0d4e]

It says which of our definitions the thing follows, its own id, and a fingerprint of the definition as it was last
written. A copy that somebody makes in Metabase carries the id of its original, and is therefore theirs. So is whatever
they take the line off, or out of our collection. Comparing fingerprints instead of what Metabase answers makes a second
run change nothing, however Metabase rewrites what it was given.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

_LINE = re.compile(r"\[meters dashboards: (?P<key>\w+)(?: #(?P<id>\d+) (?P<fingerprint>[0-9a-f]{12}))?\]\s*$")


@dataclass(frozen=True)
class Kept:
    """Something in Metabase that we keep: the definition's key, Metabase's id, and the fingerprint last written."""

    key: str
    id: int
    fingerprint: str | None


def begun(text: str, key: str) -> str:
    """The description, or the name, of a thing whose id is not known yet.

    A run that dies before it writes the id is continued by the next one.
    """
    return f"{text} [meters dashboards: {key}]"


def described(text: str, kept: Kept) -> str:
    """The description of a thing as it now stands."""
    return f"{text}\n\n[meters dashboards: {kept.key} #{kept.id} {kept.fingerprint}]"


def kept_among(items: Iterable[dict[str, Any]]) -> dict[str, Kept]:
    """Our own among things of Metabase, by key; of two with one key the elder.

    Args:
        items: with `id`, `description` and `name`; a thing that cannot be created with a description begins with our
            line in its name.
    """
    found: dict[str, Kept] = {}
    for item in sorted((each for each in items if isinstance(each["id"], int)), key=lambda each: each["id"]):
        line = _LINE.search(item.get("description") or item["name"])
        if line and line["id"] in (None, str(item["id"])):
            found.setdefault(line["key"], Kept(line["key"], item["id"], line["fingerprint"]))
    return found


def fingerprint(definition: Any) -> str:
    """Twelve hexadecimal digits that are others for another definition."""
    return hashlib.sha256(json.dumps(definition, sort_keys=True).encode()).hexdigest()[:12]
