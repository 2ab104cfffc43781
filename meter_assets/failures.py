"""What people are told of a step that failed."""

from typing import Any

from metering.errors import MetersError, ServiceAwayError

OURS = (MetersError.__name__, ServiceAwayError.__name__)


def failure_line(failure: Any) -> str:
    """One line for a step's failure: our own where there is one, else the first line of what was at the bottom of it.

    Args:
        failure: Dagster's StepFailureData.
    """
    if failure.user_failure_data and failure.user_failure_data.description:
        return failure.user_failure_data.description
    error = failure.error
    if error is None:
        return "see the run in the UI"
    while error.cause and error.cls_name not in OURS:
        error = error.cause
    line = error.message.strip().splitlines()[0]
    return line.split(": ", 1)[1] if error.cls_name in OURS else line
