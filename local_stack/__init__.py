"""The embedded services: a real MongoDB, a real Kafka broker and a warm Spark Connect server as child processes.

`LocalStack` runs them for as long as a `with` block lasts; `meters up` runs them in the background. This package knows
nothing of readings: topics, collections and jobs belong to the packages that use them.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from local_stack.stack import LocalStack

__all__ = ["LocalStack"]


def __getattr__(name: str) -> Any:
    # Late, so that `python -m local_stack.jars` does not find itself imported already.
    if name == "LocalStack":
        from local_stack.stack import LocalStack

        return LocalStack
    raise AttributeError(name)
