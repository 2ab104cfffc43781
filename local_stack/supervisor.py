"""The background process behind `meters up`: owns the services, starts crashed ones again for ever, ends on a signal.

`python -m local_stack.supervisor` runs it; its log is logs/supervisor.log. Others read the state file, and send SIGTERM
to end it, SIGUSR1 to have failed services tried at once.
"""

import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import FrameType

from local_stack.stack import LocalStack
from metering.errors import MetersError
from metering.settings import load_settings
from runtime.local_services import FAILED, RESTARTING

WATCH_SECONDS = 0.25
TRIM_LOGS_SECONDS = 60
MAX_QUICK_RESTARTS = 5
"""A service that crashes once more counts as failed: people are notified, and it is tried more and more seldom."""

FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 300
STEADY_SECONDS = 120
"""A service that was usable for so long has recovered: its crashes are counted from the beginning."""

log = logging.getLogger("supervisor")


def pause_seconds(crashes: int) -> float:
    """How long to wait before the start after that many crashes in a row."""
    return min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(crashes - 1, 20))


@dataclass
class _Record:
    """What the supervisor remembers of a service; times are monotonic."""

    crashes: int = 0
    usable_since: float | None = None
    due: float | None = None
    is_starting: bool = False
    is_failed: bool = False


class Supervisor:
    """Watches a started stack until `end` is called.

    Args:
        stack: a started stack.
        end: set from outside to make `watch` return.
    """

    def __init__(self, stack: LocalStack, end: threading.Event) -> None:
        self._stack = stack
        self._end = end
        self._retry_now = threading.Event()
        started = time.monotonic()
        self._records = {name: _Record(usable_since=started) for name in stack.services}

    def retry_now(self, number: int = 0, frame: FrameType | None = None) -> None:
        """Have every service that waits for its next try started at once; fit to be a signal's handler."""
        self._retry_now.set()

    def watch(self) -> None:
        """Start again what crashes, with growing pauses and without an end."""
        self._stack.take_signals()
        trimmed = time.monotonic()
        with ThreadPoolExecutor(max_workers=max(1, len(self._records))) as pool:
            while not self._end.wait(WATCH_SECONDS):
                try:
                    self._look(pool)
                    self._stack.publish()
                    if time.monotonic() - trimmed > TRIM_LOGS_SECONDS:
                        trimmed = time.monotonic()
                        for service in self._stack.services.values():
                            service.trim_log()
                except Exception:  # the services have nobody else
                    log.exception("the supervisor goes on after an error of its own")
            for service in self._stack.services.values():
                service.abandon()  # ends the waits of the pool's threads

    def _look(self, pool: ThreadPoolExecutor) -> None:
        now = time.monotonic()
        services = self._stack.services
        for name, record in self._records.items():
            if record.is_starting or record.due is not None:
                continue
            if not services[name].is_running:
                self._crashed(name, record, now)
            elif record.crashes and record.usable_since and now - record.usable_since >= STEADY_SECONDS:
                self._recovered(name, record)
        if self._retry_now.is_set():
            self._retry_now.clear()
            for record in self._records.values():
                record.due = None if record.due is None else now
        due = [name for name, record in self._records.items() if record.due is not None and record.due <= now]
        if due and not self._end.is_set():
            self._begin(due, pool)

    def _begin(self, due: list[str], pool: ThreadPoolExecutor) -> None:
        """Start services that are due, unless one of those that belong to them is being started just now."""
        services = self._stack.services
        kinds = {services[name].kind for name in due}
        # Brokers and members that died together are usable together only; and a service has to start again with those
        # that it needs.
        names = [
            name
            for name, record in self._records.items()
            if name in due
            or (record.due is not None and services[name].kind in kinds)
            or set(services[name].needs) & set(due)
        ]
        if any(self._records[name].is_starting for name in names):
            return
        for name in names:
            self._records[name].is_starting = True
            self._records[name].due = None
        pool.submit(self._revive, names)

    def _revive(self, names: list[str]) -> None:
        try:
            for name in names:
                self._stack.services[name].kill()  # what is left of its process group
            self._stack.start_services(names, keep_waiting=True)
        except MetersError:
            pass  # the next look finds it dead, and logs why
        except Exception:  # else the service would count as starting for ever
            log.exception("starting %s again failed", ", ".join(names))
        finally:
            for name in names:
                record = self._records[name]
                # The others of its group may have failed, and this one not.
                record.usable_since = time.monotonic() if self._stack.services[name].is_running else None
                record.is_starting = False

    def _crashed(self, name: str, record: _Record, now: float) -> None:
        """Count a crash, publish it, and set the time of the next start."""
        service = self._stack.services[name]
        death = service.death()
        if record.usable_since is not None and now - record.usable_since >= STEADY_SECONDS:
            record.crashes = 0
        record.crashes += 1
        record.usable_since = None
        pause = pause_seconds(record.crashes)
        record.due = now + pause
        log.warning("%s", death)
        changes = {
            "crashes": record.crashes,
            "restarts": self._stack.state.services[name].restarts + 1,
            "next_try_at": _iso(datetime.now(UTC) + timedelta(seconds=pause)),
        }
        if record.crashes > MAX_QUICK_RESTARTS and not record.is_failed:
            record.is_failed = True
            changes |= {
                "failed_at": _iso(datetime.now(UTC)),
                "failed_reason": death.message,
                "recovered_at": "",
            }
            log.error("%s crashed %d times in a row: it counts as failed", service.title, record.crashes)
        log.info("restarting %s in %.1f s (restart %d)", service.title, pause, changes["restarts"])
        self._stack.note(name, FAILED if record.is_failed else RESTARTING, error=death.message, **changes)

    def _recovered(self, name: str, record: _Record) -> None:
        changes = {"recovered_at": _iso(datetime.now(UTC))} if record.is_failed else {}
        record.crashes, record.is_failed = 0, False
        log.info("%s has recovered", self._stack.services[name].title)
        self._stack.note(name, "up", crashes=0, next_try_at="", **changes)


@contextmanager
def watched(stack: LocalStack) -> Iterator[None]:
    """Watch a started stack for as long as the block lasts; in a main thread, as it takes SIGUSR1."""
    end = threading.Event()
    supervisor = Supervisor(stack, end)
    before = signal.signal(signal.SIGUSR1, supervisor.retry_now)
    thread = threading.Thread(target=supervisor.watch, name="supervisor", daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()
        signal.signal(signal.SIGUSR1, before)


def _iso(instant: datetime) -> str:
    return instant.isoformat(timespec="seconds")


def run() -> None:
    """Own a stack until SIGTERM or SIGINT.

    Raises:
        MetersError: it cannot start.
    """
    settings = load_settings()
    end = threading.Event()
    stack = LocalStack(settings, supervised=True, report=log.info)
    supervisor = Supervisor(stack, end)

    def ask_to_end(number: int, frame: FrameType | None) -> None:
        end.set()
        for service in stack.services.values():
            service.abandon()

    signal.signal(signal.SIGTERM, ask_to_end)
    signal.signal(signal.SIGINT, ask_to_end)
    signal.signal(signal.SIGUSR1, supervisor.retry_now)
    try:
        stack.start()
        log.info("all services are up")
        supervisor.watch()
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
    logging.raiseExceptions = False  # a full disk also takes no log, and no traces about that
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    logging.getLogger("pyspark").setLevel(logging.CRITICAL)
    try:
        run()
    except MetersError as error:
        # The last line of the log is what `meters up` shows.
        print(f"error: {error}", flush=True)
        sys.exit(1)
    except OSError as error:
        print(f"error: {error.filename or 'The local stack'}: {error.strerror}", flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
