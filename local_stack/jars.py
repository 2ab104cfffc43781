"""The jars that pip does not bring: where they are kept, how they are fetched and how they are verified.

`python -m local_stack.jars` fetches those that the settings ask for with the Apache Ivy that ships in pyspark, verifies
each against jars.sha256 and prints their folder; with `all` it fetches all of them. The folder's name holds a hash of
what can be asked for, so all clones of a user share it, and an older clone keeps its own. `python -m local_stack.jars
renew` writes jars.sha256 anew after a change of ivy.xml.
"""

import fcntl
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from local_stack.java import find_java
from metering.errors import MetersError
from metering.settings import Settings, load_settings

IVY_FILE = Path(__file__).with_name("ivy.xml")
MANIFEST = Path(__file__).with_name("jars.sha256")
LOCAL_STACK = ("spark", "broker")
OBJECT_STORE = "s3a"
ALL = (*LOCAL_STACK, OBJECT_STORE)
SIZES = {LOCAL_STACK: "Kafka and Spark (60 MB, about a minute)", (OBJECT_STORE,): "a lake in an object store (13 MB)"}

FETCH_ATTEMPTS = 3
FETCH_TIMEOUT_SECONDS = 1200

Report = Callable[[str], None]


def spark_jars(settings: Settings) -> list[Path]:
    """Absolute paths of the jars that Spark loads beside pyspark's own, verified.

    Raises:
        MetersError: they are missing or not the expected ones.
    """
    return _jars(settings, "spark")


def broker_jars(settings: Settings) -> list[Path]:
    """Absolute paths of the Kafka broker's jars, verified.

    Raises:
        MetersError: they are missing or not the expected ones.
    """
    return _jars(settings, "broker")


def s3a_jars(settings: Settings) -> list[Path]:
    """Absolute paths of the jars with which Spark reaches the lake's object store; none for a lake in a folder.

    Raises:
        MetersError: they are missing or not the expected ones.
    """
    return _jars(settings, OBJECT_STORE) if settings.is_lake_in_s3 else []


def wanted_sets(settings: Settings) -> tuple[str, ...]:
    """The sets of jars, named as in ivy.xml, that this installation uses."""
    return ALL if settings.is_lake_in_s3 else LOCAL_STACK


def missing_sets(settings: Settings) -> list[str]:
    """Those that it uses and that are not there."""
    return _absent(jars_folder(settings), wanted_sets(settings))


def jars_folder(settings: Settings) -> Path:
    """Where this version's jars are, or will be once fetched."""
    asked = hashlib.sha256(IVY_FILE.read_bytes() + MANIFEST.read_bytes()).hexdigest()
    return settings.cache_dir / f"jars-{asked[:16]}"


def manifest(sets: Sequence[str]) -> dict[str, str]:
    """Each jar's path within the folder, like "spark/bson-5.1.4.jar", and its sha256 sum."""
    lines = (line.split() for line in MANIFEST.read_text().splitlines() if line.strip())
    return {name: digest for digest, name in lines if name.split("/")[0] in sets}


def verify(folder: Path, sets: Sequence[str]) -> None:
    """Compare those sets of the folder with the manifest.

    Raises:
        MetersError: a jar is missing, differs, or is one too many (class paths take whole folders).
    """
    expected = manifest(sets)
    found = {str(jar.relative_to(folder)): jar for each in sets for jar in (folder / each).glob("*.jar")}
    if odd := sorted(expected.keys() ^ found.keys()):
        what = "is missing from" if odd[0] in expected else "does not belong in"
        raise MetersError(f"{odd[0]} {what} {folder}", fix=f"Delete {folder} and run make setup")
    for name, digest in expected.items():
        with found[name].open("rb") as jar:
            if hashlib.file_digest(jar, "sha256").hexdigest() != digest:
                raise MetersError(
                    f"{found[name]} is not the jar it should be: its checksum differs from the one in jars.sha256",
                    fix=f"Delete {folder} and run make setup",
                )


def fetch_jars(settings: Settings, report: Report = lambda line: None, *, sets: Sequence[str] | None = None) -> Path:
    """Make the jars folder complete, if it is not, and verify it.

    Safe to call at once from several processes: the second waits for the first.

    Args:
        settings: decides the cache's folder.
        report: gets a line about the progress now and then.
        sets: of ivy.xml; default: those that the settings ask for.

    Returns:
        The folder, complete and verified.

    Raises:
        MetersError: a jar cannot be fetched or is not the expected one.
    """
    folder = jars_folder(settings)
    sets = sets or wanted_sets(settings)
    if _absent(folder, sets):
        settings.cache_dir.mkdir(parents=True, exist_ok=True)
        with _only_one(settings.cache_dir, report):
            for together in SIZES:
                if absent := [each for each in _absent(folder, sets) if each in together]:
                    _fetch_into(folder, absent, report)
    verify(folder, sets)
    return folder


def _absent(folder: Path, sets: Sequence[str]) -> list[str]:
    return [each for each in sets if not (folder / each).is_dir()]


def renew_manifest(settings: Settings, report: Report) -> None:
    """Fetch what ivy.xml asks for and take its checksums as the right ones; read the change before committing it."""
    with tempfile.TemporaryDirectory(prefix="meters-jars-") as temporary:
        fetched = Path(temporary)
        _retrieve(fetched, ALL, report)
        names = sorted(str(jar.relative_to(fetched / "jars")) for jar in (fetched / "jars").glob("*/*.jar"))
        sums = (hashlib.sha256((fetched / "jars" / name).read_bytes()).hexdigest() for name in names)
        MANIFEST.write_text("".join(f"{digest}  {name}\n" for digest, name in zip(sums, names, strict=True)))
        target = jars_folder(settings)
        if not target.exists():
            settings.cache_dir.mkdir(parents=True, exist_ok=True)
            shutil.copytree(fetched / "jars", target)


def _jars(settings: Settings, part: str) -> list[Path]:
    folder = jars_folder(settings)
    if _absent(folder, [part]):
        raise MetersError(f"Jars are missing from {folder / part}", fix="Run make setup")
    verify(folder, [part])
    return sorted((folder / part).glob("*.jar"))


@contextmanager
def _only_one(cache: Path, report: Report) -> Iterator[None]:
    with (cache / ".jars.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("waiting for another setup that is fetching the jars")
            fcntl.flock(lock, fcntl.LOCK_EX)
        # The kernel drops the lock of a process that dies, so a temporary folder that is still here is nobody's.
        for abandoned in cache.glob(".fetch-*"):
            shutil.rmtree(abandoned, ignore_errors=True)
        yield


def _fetch_into(folder: Path, sets: Sequence[str], report: Report) -> None:
    started = time.monotonic()
    temporary = Path(tempfile.mkdtemp(prefix=".fetch-", dir=folder.parent))
    try:
        what = next(text for together, text in SIZES.items() if set(sets) <= set(together))
        report(f"fetching {len(manifest(sets))} jars for {what}")
        _retrieve(temporary, sets, report)
        verify(temporary / "jars", sets)
        folder.mkdir(exist_ok=True)
        for each in sets:
            (temporary / "jars" / each).rename(folder / each)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    report(f"jars fetched and verified in {time.monotonic() - started:.0f} s")


def _retrieve(temporary: Path, sets: Sequence[str], report: Report) -> None:
    spec = importlib.util.find_spec("pyspark")
    ivy = next(Path(spec.origin).parent.glob("jars/ivy-*.jar"), None) if spec and spec.origin else None
    if ivy is None:
        raise MetersError("pyspark is not installed completely: its jars folder has no Ivy", fix="Run make setup")
    command = [
        str(find_java()),
        "-jar",
        str(ivy),
        *("-ivy", str(IVY_FILE)),
        *("-cache", str(temporary / "ivy")),
        *("-types", "jar", "bundle"),
        *("-confs", *sets),
        *("-retrieve", f"{temporary}/jars/[conf]/[artifact]-[revision](-[classifier]).[ext]"),
    ]
    trouble = ""
    for attempt in range(1, FETCH_ATTEMPTS + 1):
        trouble = _run_ivy(command, len(manifest(sets)), report)
        if not trouble:
            return
        if attempt < FETCH_ATTEMPTS:
            # What came through stays in Ivy's cache, so a second attempt asks for the rest only.
            report(f"attempt {attempt} failed ({trouble}); trying again")
    raise MetersError(f"The jars cannot be fetched: {trouble}", fix="Check the network and run make setup again")


def _run_ivy(command: list[str], total: int, report: Report) -> str:
    """Run Ivy; returns what went wrong, empty when all is well."""
    trouble, found, fetched = "", 0, 0
    deadline = time.monotonic() + FETCH_TIMEOUT_SECONDS
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout or ():
            line = line.strip()
            if line.startswith("found "):
                found += 1
                if found % 20 == 0:
                    report(f"{found} dependencies found")
            elif line.startswith("[SUCCESSFUL ]"):
                fetched += 1
                if fetched % 20 == 0:
                    report(f"{fetched} of {total or 'all'} jars fetched")
            elif not trouble and any(
                sign in line for sign in ("not found", "FAILED", "error", "xception", "UNRESOLVED")
            ):
                trouble = line[:200]
            if time.monotonic() > deadline:
                process.kill()
                return f"no end after {FETCH_TIMEOUT_SECONDS} s"
    return "" if process.returncode == 0 else trouble or f"Ivy ended with exit code {process.returncode}"


def main() -> None:
    """Fetch the jars; progress goes to standard error, their folder to standard output."""

    def report(line: str) -> None:
        print(f"jars: {line}", file=sys.stderr, flush=True)

    try:
        settings = load_settings()
        if sys.argv[1:] == ["renew"]:
            renew_manifest(settings, report)
        else:
            sets = ALL if sys.argv[1:] == ["all"] else None
            print(fetch_jars(settings, report, sets=sets))
    except MetersError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
