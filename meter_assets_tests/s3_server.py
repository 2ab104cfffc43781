"""An S3 server of the tests' own, over HTTP on the loopback: moto's, a process that keeps its objects in memory.

With the path of a `versitygw` in METERS_TESTS_VERSITYGW it is that one, which docker-compose.yml has: on files, and
with keys that it compares.
"""

import os
import secrets
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from meter_assets_tests.support import answers_http, free_ports, wait_for
from metering.settings import LOOPBACK, Settings
from runtime.s3 import connect_store

BUCKET = "tests"


@dataclass(frozen=True)
class S3Address:
    """Where the server is, and the keys to it. Known before it runs, so that Spark can be started with them."""

    port: int = field(default_factory=lambda: free_ports(1)[0])
    key: str = field(default_factory=lambda: secrets.token_hex(10))
    secret: str = field(default_factory=lambda: secrets.token_hex(20))

    @property
    def url(self) -> str:
        """Endpoint."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def keys(self) -> dict[str, str]:
        """Environment of those who use it."""
        return {"AWS_ACCESS_KEY_ID": self.key, "AWS_SECRET_ACCESS_KEY": self.secret}

    def applied(self, settings: Settings, prefix: str = "") -> Settings:
        """The settings with a lake there."""
        return settings.model_copy(update={"lake": f"s3a://{BUCKET}/{prefix}", "s3_endpoint": self.url})


class S3Server:
    """The server for as long as a `with` block lasts.

    Args:
        address: where it listens.
        refuses: does it refuse all keys? Otherwise it takes any, and has the bucket.
    """

    def __init__(self, address: S3Address, *, refuses: bool = False) -> None:
        self.address = address
        self._refuses = refuses

    def __enter__(self) -> Self:
        """Start it."""
        self._folder = tempfile.TemporaryDirectory(prefix="meters-s3-")
        gateway = os.environ.get("METERS_TESTS_VERSITYGW")
        command, environment = self._versitygw(gateway) if gateway else self._moto()
        self._process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for(lambda: answers_http(f"{self.address.url}/"), 60, "the S3 server answers")
        if not self._refuses:
            connect_store(self.address.applied(Settings()), may_make_bucket=True).create_dir(BUCKET)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(20)
        self._folder.cleanup()

    def _moto(self) -> tuple[list[str], dict[str, str]]:
        command = [sys.executable, "-m", "moto.server", "-H", LOOPBACK, "-p", str(self.address.port)]
        return command, {"INITIAL_NO_AUTH_ACTION_COUNT": "0"} if self._refuses else {}

    def _versitygw(self, program: str) -> tuple[list[str], dict[str, str]]:
        keys = S3Address(self.address.port) if self._refuses else self.address
        command = [program, "--port", f"{LOOPBACK}:{self.address.port}", "posix", self._folder.name]
        return command, {"ROOT_ACCESS_KEY": keys.key, "ROOT_SECRET_KEY": keys.secret}
