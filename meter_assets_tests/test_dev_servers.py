"""`meters dev` as a process: a real `dagster dev`, on definitions of the test's own, watched and ended as one."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from meter_assets_tests.support import answers_http, free_ports, wait_for
from metering.settings import LOOPBACK

pytestmark = pytest.mark.slow

WORKER = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
time.sleep(1000)
"""

DEFINITIONS = """
import signal, subprocess, sys
from pathlib import Path
import dagster as dg

@dg.op
def hang():
    # As a run that waits for a service: neither it nor its child heeds a signal.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    subprocess.run([sys.executable, str(Path(__file__).with_name("waits_for_ever.py"))])

@dg.job(executor_def=dg.in_process_executor)
def hanging():
    hang()

defs = dg.Definitions(jobs=[hanging])
"""

SERVE = """
import os, sys
from local_stack.dev_servers import DevServers
from metering.errors import MetersError

try:
    DevServers(sys.argv[1:], os.environ).run()
except MetersError as error:
    print(f"error: {error}", flush=True)
    sys.exit(1)
"""

ENDS_WITHIN_SECONDS = 40
"""Ten on a quiet machine; all tests share two processors."""


class Serving:
    """`meters dev`'s process, on other definitions."""

    def __init__(self, folder: Path) -> None:
        [port] = free_ports(1)
        file = folder / "definitions.py"
        file.write_text(DEFINITIONS)
        file.with_name("waits_for_ever.py").write_text(WORKER)
        self.log = folder / "log"
        dagster = str(Path(sys.executable).with_name("dagster"))
        command = [dagster, "dev", "-f", str(file), "--host", LOOPBACK, "--port", str(port)]
        self.home = folder / "dagster"
        self.home.mkdir()
        self._output = self.log.open("w")
        self.environment = {**os.environ, "DAGSTER_HOME": str(self.home), "DAGSTER_DISABLE_TELEMETRY": "yes"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, *command], env=self.environment, stdout=self._output, stderr=subprocess.STDOUT
        )
        self.url = f"http://{LOOPBACK}:{port}"
        wait_for(lambda: answers_http(f"{self.url}/server_info"), 200, "the webserver answers")
        wait_for(lambda: self.find("dagster._daemon"), 60, "the daemon runs")

    def tree(self) -> list[psutil.Process]:
        """All that it has started."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def find(self, part: str) -> psutil.Process | None:
        """One of them, by a part of its command line."""
        for process in self.tree():
            try:
                if part in " ".join(process.cmdline()):
                    return process
            except psutil.Error:
                continue
        return None

    def hang(self) -> None:
        """Have a run hang that no signal but SIGKILL ends."""
        launch = [str(Path(sys.executable).with_name("dagster")), "job", "launch", "-j", "hanging"]
        file = self.home.parent / "definitions.py"
        answer = subprocess.run(
            [*launch, "-f", str(file)], env=self.environment, capture_output=True, text=True, timeout=200
        )
        assert answer.returncode == 0, answer.stderr
        wait_for(lambda: self.find("waits_for_ever.py"), 200, "the run hangs")

    def end(self) -> None:
        """Kill what is left."""
        if self.process.poll() is None:
            for process in [*self.tree(), psutil.Process(self.process.pid)]:
                process.kill()
        self.process.wait()
        self._output.close()


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Serving]:
    own = Serving(tmp_path)
    yield own
    own.end()


def gone(processes: list[psutil.Process]) -> bool:
    return not [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.timeout(600)
def test_sigterm_ends_all_of_it_although_a_run_hangs(serving: Serving) -> None:
    """Four processes stayed."""
    serving.hang()
    processes = serving.tree()
    assert len(processes) >= 5
    serving.process.send_signal(signal.SIGTERM)
    assert serving.process.wait(ENDS_WITHIN_SECONDS) == 0
    assert gone(processes)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("part", "title"), [("dagster._daemon", "The Dagster daemon"), ("dagster_webserver", "The Dagster webserver")]
)
def test_a_killed_server_ends_it_with_a_line_and_an_exit_code(serving: Serving, part: str, title: str) -> None:
    """A killed daemon ended `meters dev` with exit code 0."""
    processes = serving.tree()
    victim = serving.find(part)
    assert victim
    victim.kill()
    assert serving.process.wait(ENDS_WITHIN_SECONDS) == 1
    assert serving.log.read_text().strip().splitlines()[-1].startswith(f"error: {title} ended")
    assert gone(processes)


def test_a_killed_code_server_is_started_again_and_leaves_no_zombie(serving: Serving) -> None:
    victim = serving.find("code-server start")
    assert victim
    left = victim.children(recursive=True)
    victim.kill()
    wait_for(lambda: serving.find("code-server start"), ENDS_WITHIN_SECONDS, "another code server runs")
    for process in left:
        process.kill()  # half a minute before it would miss its parent
    wait_for(lambda: not any(map(psutil.pid_exists, [each.pid for each in left])), ENDS_WITHIN_SECONDS, "no zombie")
    assert serving.process.poll() is None
