"""Reads a compose file as Docker Compose does, as far as ours goes: merge keys, variables, profiles, order of start."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from dotenv import dotenv_values

VARIABLE = re.compile(r"\$(?:(?P<escape>\$)|\{(?P<name>\w+)(?:(?P<how>:?[-?])(?P<word>[^}]*))?\})")


def read_env(path: Path) -> dict[str, str]:
    """The variables of a .env file; a name without a value is an empty one."""
    return {name: value or "" for name, value in dotenv_values(path, interpolate=False).items()}


def load(path: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """The model of the file with all variables filled in.

    Raises:
        ValueError: a variable that the file demands is missing.
    """
    return interpolate(yaml.safe_load(path.read_text()), environment)


def interpolate(value: Any, environment: Mapping[str, str]) -> Any:
    """Fill in the variables of every string in the value."""
    if isinstance(value, dict):
        return {key: interpolate(each, environment) for key, each in value.items()}
    if isinstance(value, list):
        return [interpolate(each, environment) for each in value]
    if not isinstance(value, str):
        return value

    def fill(match: re.Match[str]) -> str:
        if match["escape"]:
            return "$"
        found = environment.get(match["name"], "")
        if found or not match["how"]:
            return found
        if "?" in match["how"]:
            raise ValueError(f"{match['name']} is missing: {match['word']}")
        return match["word"]

    return VARIABLE.sub(fill, value)


def active(model: dict[str, Any], profiles: set[str]) -> dict[str, dict[str, Any]]:
    """The services that start with these profiles, each without dependencies that do not, in the order of their start.

    Raises:
        ValueError: a service cannot do without one that does not start.
    """
    chosen = {
        name: dict(service)
        for name, service in model["services"].items()
        if not service.get("profiles") or profiles & set(service["profiles"])
    }
    for name, service in chosen.items():
        needs = service.get("depends_on", {})
        for other, how in needs.items():
            if other not in chosen and how.get("required", True):
                raise ValueError(f"{name} depends on {other}, which no active profile starts")
        service["depends_on"] = {other: how for other, how in needs.items() if other in chosen}
    ordered: dict[str, dict[str, Any]] = {}
    while len(ordered) < len(chosen):
        ready = [name for name in chosen if name not in ordered and chosen[name]["depends_on"].keys() <= ordered.keys()]
        if not ready:
            raise ValueError(f"these services wait for each other: {', '.join(sorted(chosen.keys() - ordered.keys()))}")
        ordered |= {name: chosen[name] for name in ready}
    return ordered


def seconds(duration: str) -> float:
    """A duration of a compose file, like 1m30s, in seconds."""
    units = {"h": 3600, "m": 60, "s": 1}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([hms])", duration))
