"""The background process behind `meters up`: owns the services, restarts one that crashes, ends when told to.

`python -m local_stack.supervisor` runs it; its log is logs/supervisor.log. Others talk to it by the state file and by
SIGTERM.
"""

import logging
import signal
import sys
import threading
import time
from collections import deque
from types import FrameType

from local_stack.stack import LocalStack
from metering.errors import MetersError
from metering.settings import load_settings

WATCH_SECONDS = 0.25
TRIM_LOGS_SECONDS = 60
MAX_RESTARTS = 5
RESTARTS_WINDOW_SECONDS = 600
FIRST_BACKOFF_SECONDS = 0.5

log = logging.getLogger("supervisor")


class Supervisor:
    """Watches a started stack until `end` is called.

    Args:
        stack: a started stack.
        end: set from outside to make `watch` return.
    """

    def __init__(self, stack: LocalStack, end: threading.Event) -> None:
        self._stack = stack
        self._end = end
        self._crashes: dict[str, deque[float]] = {name: deque() for name in stack.services}
        self._given_up: set[str] = set()

    def watch(self) -> None:
        """Restart what crashes, with growing pauses; give a service up that crashes again and again."""
        trimmed = time.monotonic()
        while not self._end.wait(WATCH_SECONDS):
            services = self._stack.services
            dead = [name for name in services if name not in self._given_up and not services[name].is_running]
            if dead and not self._end.is_set():
                self._revive(dead)
            if time.monotonic() - trimmed > TRIM_LOGS_SECONDS:
                trimmed = time.monotonic()
                for service in services.values():
                    service.trim_log()

    def _revive(self, dead: list[str]) -> None:
        pauses = {name: pause for name in dead if (pause := self._pause_before_restart(name)) is not None}
        if not pauses or self._end.wait(max(pauses.values())):
            return
        # Together, since brokers and members that died together are usable together only; and whoever has lost what
        # it needs begins anew.
        services = self._stack.services
        begin = [name for name in services if name in pauses or set(services[name].needs) & set(pauses)]
        for name in begin:
            services[name].kill()  # what is left of its process group
        try:
            self._stack.start_services(begin)
        except MetersError as error:
            log.warning("%s", error)  # the next round finds it dead and counts

    def _pause_before_restart(self, name: str) -> float | None:
        """Count a crash; seconds until the restart, or None when the service is given up."""
        service, crashes = self._stack.services[name], self._crashes[name]
        death = service.death()
        log.warning("%s", death)
        now = time.monotonic()
        while crashes and now - crashes[0] > RESTARTS_WINDOW_SECONDS:
            crashes.popleft()
        if len(crashes) >= MAX_RESTARTS:
            log.error("%s crashed %d times in %d s: given up", service.title, len(crashes) + 1, RESTARTS_WINDOW_SECONDS)
            self._given_up.add(name)
            self._stack.note(name, "failed", error=str(death))
            return None
        crashes.append(now)
        pause = FIRST_BACKOFF_SECONDS * 2 ** (len(crashes) - 1)
        restarts = self._stack.state.services[name].restarts + 1
        log.info("restarting %s in %.1f s (restart %d)", service.title, pause, restarts)
        self._stack.note(name, "restarting", error=str(death), restarts=restarts)
        return pause


def run() -> None:
    """Own a stack until SIGTERM or SIGINT.

    Raises:
        MetersError: it cannot start; the state file then tells the reason too.
    """
    settings = load_settings()
    end = threading.Event()
    stack = LocalStack(settings, supervised=True, report=log.info)

    def ask_to_end(number: int, frame: FrameType | None) -> None:
        end.set()
        for service in stack.services.values():
            service.abandon()

    signal.signal(signal.SIGTERM, ask_to_end)
    signal.signal(signal.SIGINT, ask_to_end)
    try:
        stack.start()
        log.info("all services are up")
        Supervisor(stack, end).watch()
    except MetersError as error:
        if end.is_set():
            return
        log.error("%s", error)
        raise
    finally:
        stack.stop()
        log.info("stopped")


def main() -> None:
    """Run with a log on standard output, which `meters up` sends to the log file."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    logging.getLogger("pyspark").setLevel(logging.CRITICAL)
    try:
        run()
    except MetersError as error:
        # The last line of the log is what `meters up` shows.
        print(f"error: {error}", flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
