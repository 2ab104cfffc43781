"""Cases of what is around a message: sizes, tombstones, keys, headers and codecs."""

import random
from dataclasses import replace

from meter_assets_tests.corpus.case import ELECTRICITY, INVALID_JSON, Case, refused, taken
from metering.reading import MAX_MESSAGE_BYTES

LARGEST_BYTES = 1024 * 1024 - 2000
"""As much as the broker takes, with room for the batch's own bytes."""

PADDED = MAX_MESSAGE_BYTES - 100  # so that numbers instead of "em1" do not lead beyond the limit
EXPANDED_BYTES = 5_000_000


def _padded(length: int) -> str:
    return ELECTRICITY.ljust(length)


SIZES = [
    *taken(
        "sizes",
        {"nearly the limit": _padded(PADDED), "exactly the limit": _padded(4096).replace("em1", "size1")[:4096]},
    ),
    *refused(
        "sizes",
        {
            "one byte too long": _padded(MAX_MESSAGE_BYTES + 1).replace("em1", "size2")[: MAX_MESSAGE_BYTES + 1],
            "one byte too long with a text": ELECTRICITY.replace("em1", "e" * 5000),
            "100,000 deep, arrays": "[" * 100_000,
            "100,000 deep, closed": "[" * 100_000 + "]" * 100_000,
            "100,000 deep, objects": '{"a":' * 100_000,
            "100,000 deep in a reading": ELECTRICITY.replace("-1", "[" * 100_000 + "]" * 100_000),
            "5,000 digits": ELECTRICITY.replace("-1", "9" * 5_000),
            "5,000 digits behind the point": ELECTRICITY.replace("-1", "-0." + "1" * 5_000),
            "100,000 fields": "{" + ",".join(f'"{number}":1' for number in range(100_000)) + "}",
            "a text of 100,000 quotes": ELECTRICITY.replace("em1", '\\"' * 100_000),
            "the largest message, noise": random.Random(1).randbytes(LARGEST_BYTES),
            "the largest message, blanks": _padded(LARGEST_BYTES),
            "the largest message, one number": ELECTRICITY.replace("-1", "1" * (LARGEST_BYTES - 100)),
        },
        "too_large",
    ),
    *refused(
        "sizes",
        {
            "4,000 brackets": "[" * 4_000,
            "700 objects": '{"a":' * 700,
            "700 objects, closed": '{"a":' * 600 + "1" + "}" * 600,
        },
        INVALID_JSON,
    ),
]

TOMBSTONES = [
    Case("tombstones", "with a key", None, "refused", "empty", key=b"em1"),
    Case("tombstones", "of a stored reading's id", None, "refused", "empty", key=b"2024-05-27T15:57:54Z|tw1"),
    Case("tombstones", "with an empty key", None, "refused", "empty", key=b""),
    Case("tombstones", "with headers", None, "refused", "empty", headers=(("reason", b"gone"),)),
    Case("tombstones", "empty value", b"", "refused", INVALID_JSON),
    Case("tombstones", "empty value and key", b"", "refused", INVALID_JSON, key=b""),
]

KEYS = [
    replace(case, key=key)
    for name, key in {
        "none": None,
        "empty": b"",
        "another device": b"em2",
        "no UTF-8": b"\xff\xfe\x00",
        "JSON": b'{"device_id":"em2"}',
        "NUL": b"\x00",
        "10,000 bytes": b"k" * 10_000,
        "a path": b"../../etc/passwd",
    }.items()
    for case in taken("keys", {name: ELECTRICITY}) + refused("keys", {f"{name}, garbage": "garbage"}, INVALID_JSON)
]

HEADERS = [
    replace(case, headers=headers)
    for name, headers in {
        "empty": (("trace", b""),),
        "empty name": (("", b"x"),),
        "no UTF-8": (("trace", b"\xff\xfe"),),
        "the same name twice": (("trace", b"1"), ("trace", b"2")),
        "name outside ASCII": (("tr\u00e4ce\u2028", b"1"),),
        "a dead letter's": (("__connect.errors.topic", b"elsewhere"), ("reason", b"invented")),
        "an event's": (("event_id", b"2024-05-27T15:57:54Z|em2"), ("severity", b"none")),
        "500 of them": tuple((f"h{number}", b"x" * 20) for number in range(500)),
        "100,000 bytes": (("blob", b"x" * 100_000),),
    }.items()
    for case in taken("headers", {name: ELECTRICITY})
    + refused("headers", {f"{name}, garbage": "garbage"}, INVALID_JSON)
]

CODECS = [
    replace(case, codec=codec)
    for codec in ("gzip", "snappy", "lz4", "zstd")
    for case in taken("codecs", {codec: ELECTRICITY})
    + refused(
        "codecs",
        {f"{codec}, 5 MB of zeros": b"0" * EXPANDED_BYTES, f"{codec}, 5 MB of blanks": _padded(EXPANDED_BYTES)},
        "too_large",
    )
]

CASES: list[Case] = [*SIZES, *TOMBSTONES, *KEYS, *HEADERS, *CODECS]
