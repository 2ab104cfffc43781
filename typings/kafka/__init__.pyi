# Pyright ships stubs of kafka-python 2, which hide the installed 3.x; its classes are Any here instead.
from typing import Any

def __getattr__(name: str) -> Any: ...
