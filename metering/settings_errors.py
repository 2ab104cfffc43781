"""The line about a setting that cannot be used. No value is repeated: it may be a secret."""

import re
from collections.abc import Callable

from pydantic import ValidationError
from pydantic_settings import SettingsError

from metering.errors import MetersError


def settings_error(error: Exception, variable_of: Callable[[str], str]) -> MetersError:
    """The error to show.

    Args:
        error: what pydantic, or reading .env, has raised.
        variable_of: gives the environment variable of a field.
    """
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        said = first["msg"].removeprefix("Value error, ")
        name = variable_of(str(first["loc"][0])) if first["loc"] else ""
        what = f"Setting {name} is not usable: {said}" if name else f"The settings do not agree: {said}"
        return MetersError(what, fix="Correct it in the environment or in .env")
    if isinstance(error, SettingsError):
        found = re.search(r'field "(\w+)"', str(error))
        name = variable_of(found[1]) if found else "METERS_*"
        fix = 'Write one like {"critical": "a-topic"}'
        return MetersError(f"Setting {name} is not usable: it is no JSON object", fix=fix)
    reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
    return MetersError(f"The file .env cannot be read: {reason}", fix="Correct it, or move it aside")
