"""One warm Spark for all processes of a parallel test session: Java compiles Spark's code once, not once in each.

It keeps no data, so that tests cannot meet in it; MongoDB and Kafka are each process's own.
"""

import os
import shutil
import tempfile
import threading
from pathlib import Path

from local_stack import LocalStack
from local_stack.jars import fetch_jars
from meter_assets_tests.s3_server import S3Address
from meter_assets_tests.support import settings_for
from metering.errors import MetersError


class SharedSpark:
    """A Spark Connect server, started beside what else happens; the process that begins it is the one to end it."""

    def __init__(self) -> None:
        self._home = Path()
        self._stack: LocalStack | None = None
        self._starting: threading.Thread | None = None
        self.store = S3Address()
        """Where it looks for lakes in an object store, whether or not a server is there."""

    @property
    def port(self) -> int | None:
        """Where it answers, once it is up; None before `begin`."""
        return self._stack.settings.spark_port if self._stack else None

    def begin(self) -> None:
        """Have it started."""
        self._home = Path(tempfile.mkdtemp(prefix="meters-"))
        os.environ.update(self.store.keys)  # Spark's own, too
        settings = self.store.applied(settings_for(self._home, spark_memory="2g"))
        self._stack = LocalStack(settings, services=("spark",))
        self._starting = threading.Thread(target=self._start, args=(self._stack,))
        self._starting.start()

    @staticmethod
    def _start(stack: LocalStack) -> None:
        try:
            fetch_jars(stack.settings)
            stack.start()
        except MetersError as error:  # those who wait for it will miss it
            print(f"The Spark of the session did not start: {error}")

    def end(self) -> None:
        """Stop it, where it was begun."""
        if self._stack and self._starting:
            self._starting.join()
            self._stack.stop()
            shutil.rmtree(self._home, ignore_errors=True)
            self._stack = None
