"""Containers without a container engine: Linux namespaces around a process in an image's file system.

Each has a network address of its own on a bridge, a name that the others resolve, its own process ids, the user, the
dropped capabilities and the volumes that the compose file gives it. Not there: resource limits and restarts.
"""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

BRIDGE = "meters-check"
IP = "/usr/sbin/ip"
NETWORK = "10.231.97"
"""Of the bridge, which no packet leaves: there is no route from it and no forwarding to it."""

# Mounts, then the root of the image. $1: the root; $2: the hosts file; $3: host name; then pairs of source and target
# up to `--`, then what runs.
ENTER = """
set -e
inside=$PATH; PATH=/usr/sbin:/usr/bin:/sbin:/bin
root=$1 hosts=$2; hostname "$3"; shift 3
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount --bind "$hosts" "$root/etc/hosts"
while [ "$1" != -- ]; do mount --bind "$1" "$root$2"; shift 2; done
shift
PATH=$inside exec /usr/sbin/chroot "$root" "$@"
"""


def run(*command: str, check: bool = True) -> None:
    """Run a tool of the system in silence; its complaint is the error's."""
    answer = subprocess.run(command, capture_output=True, text=True)
    if check and answer.returncode:
        raise RuntimeError(f"{' '.join(command)}: {answer.stderr.strip()}")


@dataclass
class Container:
    """What runs, and how others reach it."""

    name: str
    root: Path
    command: list[str]
    environment: Mapping[str, str]
    user: int | None = None
    hostname: str = ""
    mounts: dict[str, Path] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The container's first process, as the host numbers it."""
        process = self.process and psutil.Process(self.process.pid).children()
        if not process:
            raise RuntimeError(f"{self.name} has ended")
        return process[0].pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self.process.poll() if self.process else 0

    def _as_user(self, command: Sequence[str]) -> list[str]:
        if self.user is None:
            return list(command)
        drop = ("--clear-groups", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all")
        return ["/usr/bin/setpriv", f"--reuid={self.user}", f"--regid={self.user}", *drop, "--", *command]

    def start(self, hosts: Path, log: IO[bytes]) -> None:
        """Start it; returns at once."""
        pairs = [part for target, source in self.mounts.items() for part in (str(source), target)]
        entry = self._as_user(["/usr/bin/tini", "--", *self.command])
        self.process = subprocess.Popen(
            [
                *(IP, "netns", "exec", f"{BRIDGE}-{self.name}"),
                *("/usr/bin/unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child=KILL"),
                *("--propagation", "private", "/bin/sh", "-c", ENTER, "enter"),
                *(str(self.root), str(hosts), self.hostname or self.name, *pairs, "--", *entry),
            ],
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def execute(self, command: Sequence[str], timeout_seconds: float) -> tuple[int, str]:
        """Run a command in the running container, as `docker exec` would; its exit code and output."""
        try:
            answer = subprocess.run(
                ["/usr/bin/nsenter", f"--target={self.pid}", "--all", "--root", "--wd", *self._as_user(command)],
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=timeout_seconds,
            )
        except subprocess.TimeoutExpired:
            return 124, f"no answer within {timeout_seconds} s"
        except (RuntimeError, psutil.NoSuchProcess) as error:
            return 125, str(error)
        return answer.returncode, answer.stdout.decode(errors="replace")

    def memory(self) -> int:
        """Resident bytes of all its processes, shared pages counted for each."""
        try:
            family = psutil.Process(self.pid).children(recursive=True)
            return sum(process.memory_info().rss for process in family)
        except (RuntimeError, psutil.NoSuchProcess):
            return 0

    def stop(self, grace_seconds: float) -> str:
        """End it in its orderly way; how it went, in words."""
        if self.process is None:
            return "not started"
        if self.process.poll() is None:
            try:
                os.kill(self.pid, signal.SIGTERM)
            except (RuntimeError, ProcessLookupError, psutil.NoSuchProcess):
                pass
            try:
                self.process.wait(grace_seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                return f"killed after {grace_seconds:.0f} s"
        return f"exit code {self.process.returncode}"


class Network:
    """The bridge, with a namespace and an address for each name; gone when the block ends.

    Args:
        names: of the containers.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.addresses = {name: f"{NETWORK}.{number}" for number, name in enumerate(names, start=2)}

    def hosts(self, aliases: Mapping[str, str]) -> str:
        """Text of an /etc/hosts in which every name is found; an alias stands for another name."""
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in self.addresses.items())]
        lines += [f"{self.addresses[name]} {alias}" for alias, name in aliases.items()]
        return "\n".join(lines) + "\n"

    def __enter__(self) -> "Network":
        run(IP, "link", "add", BRIDGE, "type", "bridge")
        run(IP, "addr", "add", f"{NETWORK}.1/24", "dev", BRIDGE)
        run(IP, "link", "set", BRIDGE, "up")
        for number, (name, address) in enumerate(self.addresses.items()):
            space, inner, outer = f"{BRIDGE}-{name}", f"mci{number}", f"mco{number}"
            run(IP, "netns", "add", space)
            run(IP, "link", "add", outer, "type", "veth", "peer", "name", inner, "netns", space)
            run(IP, "link", "set", outer, "master", BRIDGE, "up")
            run(IP, "-n", space, "addr", "add", f"{address}/24", "dev", inner)
            run(IP, "-n", space, "link", "set", inner, "up")
            run(IP, "-n", space, "link", "set", "lo", "up")
        return self

    def __exit__(self, *_: object) -> None:
        for name in self.addresses:
            run(IP, "netns", "del", f"{BRIDGE}-{name}", check=False)  # takes its end of the pair along
        run(IP, "link", "del", BRIDGE, check=False)
