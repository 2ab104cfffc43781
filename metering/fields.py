"""The fields of a pydantic model, for Spark and MongoDB, which cannot ask pydantic.

Read off the model's JSON Schema: what is published and what is checked elsewhere are the same by construction.
"""

from dataclasses import dataclass
from math import inf
from typing import Any, Literal

from pydantic import BaseModel

Kind = Literal["string", "number", "integer"]


@dataclass(frozen=True)
class Field:
    """One field of a message, as its JSON Schema describes it.

    Args:
        name: in the message.
        kind: JSON Schema's name of its type.
        required: must the message have it?
        nullable: may it be null?
        pattern: regular expression of the whole text of a string; between `^` and `$`.
        low: smallest number; without one, minus infinity.
        high: largest number; without one, infinity.
    """

    name: str
    kind: Kind
    required: bool
    nullable: bool
    pattern: str | None
    low: float
    high: float


def fields_of(model: type[BaseModel]) -> tuple[Field, ...]:
    """The fields of the model, in its order."""
    schema = model.model_json_schema()
    return tuple(_field(name, each, name in schema["required"]) for name, each in schema["properties"].items())


def _field(name: str, schema: dict[str, Any], required: bool) -> Field:
    options = schema.get("anyOf", [schema])
    (described,) = [option for option in options if option["type"] != "null"]
    return Field(
        name=name,
        kind=described["type"],
        required=required,
        nullable=len(options) > 1,
        pattern=described.get("pattern"),
        low=described.get("minimum", -inf),
        high=described.get("maximum", inf),
    )
