"""A question's aggregation pipeline as the text that Metabase keeps and runs, with the places of its filters.

Metabase puts a filter's value where the text says `{{name}}`, and leaves out `[[…]]` with a filter that has none. It
knows no JSON there: the text is written over many lines, so that neighbouring brackets are never taken for either.
"""

import json
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Stage = dict[str, Any]

_PLACE = re.compile(r'"\{\{(\w+)\}\}"')
_IDS = uuid.UUID("7f0f4f3e-7d1b-4a52-9c5e-5a2f5f0f4c11")


@dataclass(frozen=True)
class Filter:
    """A filter of the dashboard, and the variable of the questions' queries that it sets.

    Args:
        name: of the variable; in a pipeline the string `{{name}}` stands for its value.
        label: what people read.
        kind: `number`, or `date`, which arrives as an instant: the date's midnight in UTC.
        default: the value as long as nobody sets one; None: the stages that name the variable are left out.
    """

    name: str
    label: str
    kind: str
    default: int | None = None

    @property
    def tag_id(self) -> str:
        """Id of the queries' variable."""
        return str(uuid.uuid5(_IDS, self.name))

    @property
    def parameter_id(self) -> str:
        """Id of the dashboard's filter; eight hexadecimal digits, as Metabase makes them."""
        return self.tag_id[:8]

    @property
    def target(self) -> list[Any]:
        """What a parameter sets in a query."""
        return ["variable", ["template-tag", self.name]]

    def template_tag(self) -> dict[str, Any]:
        """The variable, as a native query declares it."""
        tag: dict[str, Any] = {"id": self.tag_id, "name": self.name, "display-name": self.label, "type": self.kind}
        return tag if self.default is None else {**tag, "default": self.default, "required": True}

    def parameter(self) -> dict[str, Any]:
        """The filter, as a dashboard or a question declares it."""
        number = self.kind == "number"
        parameter = {"name": self.label, "slug": self.name, "type": "number/=" if number else "date/single"}
        return parameter if self.default is None else {**parameter, "default": [self.default]}


def native_query(pipeline: Sequence[Stage], filters: Sequence[Filter]) -> str:
    """The query's text.

    Args:
        pipeline: stages; the string `{{name}}` as a value is the place of a filter's value. A stage with the place of
            a filter that has no default is left out while that filter has no value; it may not be the last one.
        filters: those that the pipeline may name.
    """
    optional = {each.name for each in filters if each.default is None}
    parts = []
    for number, stage in enumerate(pipeline, start=1):
        text = json.dumps(stage, indent=2)
        comma = "," if number < len(pipeline) else ""
        left_out = optional.intersection(_PLACE.findall(text))
        text = _PLACE.sub(r"{{\1}}", text)
        parts.append(f"[[{text},]]" if left_out else text + comma)
    return "[\n" + "\n".join(parts) + "\n]"


def filters_in(pipeline: Sequence[Stage], filters: Sequence[Filter]) -> list[Filter]:
    """Those of the filters that the pipeline names."""
    named = set(_PLACE.findall(json.dumps(list(pipeline))))
    return [each for each in filters if each.name in named]
