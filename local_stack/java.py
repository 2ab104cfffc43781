"""Which Java runs the broker and Spark, and whether it is new enough."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from metering.errors import MetersError

OLDEST_JAVA = 17
INSTALL_JAVA = "Install it (Debian, Ubuntu: apt-get install openjdk-17-jre-headless; macOS: brew install openjdk@17)"


def find_java() -> Path:
    """The `java` executable in force: JAVA_HOME's, else the one on PATH.

    Raises:
        MetersError: there is none, or it is too old.
    """
    path, _ = probe_java()
    return path


def probe_java() -> tuple[Path, str]:
    """The `java` in force and its version, like "17.0.15".

    Raises:
        MetersError: there is none, or it is too old.
    """
    home = os.environ.get("JAVA_HOME")
    found = str(Path(home) / "bin" / "java") if home else shutil.which("java")
    if not found:
        raise MetersError(f"Java is missing; {OLDEST_JAVA} or newer is needed", fix=f"{INSTALL_JAVA} or set JAVA_HOME")
    try:
        answer = subprocess.run([found, "-version"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        where = f"JAVA_HOME ({home})" if home else found
        raise MetersError(
            f"{where} holds no Java that runs: {error}", fix="Correct JAVA_HOME" if home else INSTALL_JAVA
        ) from None
    match = re.search(r'version "((?:1\.)?(\d+)[^"]*)"', answer.stderr + answer.stdout)
    if not match:
        raise MetersError(f"{found} does not tell its version", fix=INSTALL_JAVA)
    if int(match[2]) < OLDEST_JAVA:
        fix = f"Point JAVA_HOME to Java {OLDEST_JAVA} or newer, or unset it" if home else INSTALL_JAVA
        source = "JAVA_HOME points to" if home else "PATH has"
        raise MetersError(f"{source} Java {match[1]} ({found}); {OLDEST_JAVA} or newer is needed", fix=fix)
    return Path(found), match[1]


def java_environment(java: Path) -> dict[str, str]:
    """The variables that make scripts of others use this very Java."""
    real = java.resolve()
    # .../bin/java: everything that ships with a JVM looks for its home two levels up.
    return {"JAVA_HOME": str(real.parent.parent)}
