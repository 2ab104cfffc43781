"""Why a query of the router died, in one line."""

import tempfile
from pathlib import Path

import pytest

from streaming.router.failures import explain, innermost

PYTHON_IN_JAVA = """[STREAM_FAILED] Query [id = 1] terminated with exception: An exception was raised by the \
Python Proxy. Return Message: Traceback (most recent call last):
  File "/x/py4j/clientserver.py", line 645, in _call_proxy
    return_value = getattr(self.pool[obj_id], method)(*params)
  File "/x/streaming/router/windows.py", line 46, in add_parts
    windows.insert_many(new, ordered=False)
pymongo.errors.BulkWriteError: batch op errors occurred, full error: {'writeErrors': []}
 SQLSTATE: XXKST
\tat org.apache.spark.sql.execution.streaming.StreamExecution.runStream(StreamExecution.scala:1)
Caused by: py4j.Py4JException: An exception was raised. Return Message: Traceback (most recent call last):
  File "/x/y.py", line 1, in z
"""


def test_the_innermost_cause_is_found_in_python_and_java_traces():
    assert innermost(PYTHON_IN_JAVA).startswith("pymongo.errors.BulkWriteError: batch op errors occurred")
    java = (
        "[STREAM_FAILED] x terminated with exception: Job aborted\n\tat a.b.C(D.scala:1)\nCaused by: a.B: outer\n\tat"
    )
    assert innermost(f"{java} c.d(E.java:2)\nCaused by: java.io.IOException: inner\n\t... 3 more") == (
        "java.io.IOException: inner"
    )
    assert innermost("Traceback (most recent call last):\n") == "it ended without a reason"
    assert "Traceback" not in explain(Exception(PYTHON_IN_JAVA)).why


@pytest.mark.parametrize(
    "text",
    [
        "java.io.IOException: No space left on device",
        "[X] SQLSTATE: 58030",
        "java.lang.InternalError: a fault occurred in a recent unsafe memory access operation in compiled Java code",
    ],
)
def test_a_full_disk_is_named_with_its_folder(text: str, tmp_path: Path):
    failure = explain(Exception(f"Job aborted\n\tat a.b(C.java:1)\nCaused by: {text}"), folders=[tmp_path])
    assert failure.service and "is full" in failure.why and "make room there" in failure.why
    assert str(tmp_path) in failure.why or tempfile.gettempdir() in failure.why
