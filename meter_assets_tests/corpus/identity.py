"""Cases of identities: device ids, and one reading sent twice."""

from meter_assets_tests.corpus.case import ELECTRICITY, WATER, Case, refused, taken


def _device(*ids: str) -> dict[str, str]:
    return {(text if len(text) <= 40 else f"{len(text)} characters"): _named(text) for text in ids}


def _named(device: str, text: str = ELECTRICITY) -> str:
    return text.replace("em1", device)


GOOD = taken(
    "device ids",
    _device(
        "0",
        "Z",
        "0aZ_.:-",
        "a..",
        "a.b",
        "a-",
        "1e5",
        "null",
        "NaN",
        "00-80-41-ae-fd-7e",
        "00:80:41:ae:fd:7e",
        "urn:dev:mac:0024befffe804ff1",
        "2024-05-27T15:57:54Z",
        "x" * 64,
    ),
)

BAD = refused(
    "device ids",
    {
        "empty": _named(""),
        **_device(
            " ",
            " e",
            "e ",
            "e m",
            ".",
            "..",
            ".e",
            "_e",
            "-e",
            ":e",
            "../em1",
            "../../etc/passwd",
            "a/b",
            "/etc",
            "a|b",
            "|",
            "em1|2024",
            "a$b",
            "$where",
            "a,b",
            "a;b",
            "a'b",
            "a`b",
            "a*",
            "a?",
            "a%00",
            "a%2Fb",
            "a=b",
            "a&b",
            "a#b",
            "a@b",
            "a+b",
            "a~b",
            "[a]",
            "{a}",
            "<b>",
            "<script>alert(1)</script>",
            "em\u00e9",
            "em\u0663",
            "\u0435m1",
            "em\u200b1",
            "\u202eem1",
            "\u212aelvin",
            "x" * 65,
            "x" * 3000,
        ),
        "quote": _named('e\\"m'),
        "backslash": _named("e\\\\m"),
        "escaped slash": _named("e\\/m"),
        "carriage return": _named("em1\\r"),
        "line feed within": _named("em\\n1"),
        "tab": _named("em\\t1"),
        "ESC": _named("\\u001b[31mem"),
        "line separator last": _named("em1\\u2028"),
    },
) + refused(
    "device ids",
    {"line feed last": _named("em1\\n")},
    schema_misses=True,  # only in Python, whose `$` takes it
)


def _twice(name: str, first: str, second: str, verdict: str) -> list[Case]:
    return [
        *taken("repeated readings", {f"{name}, first": first}),
        *taken("repeated readings", {f"{name}, second": second}, verdict),  # pyright: ignore[reportArgumentType]
    ]


TWICE = [
    *_twice("the same bytes", _named("tw1"), _named("tw1"), "duplicate"),
    *_twice("another order", _named("tw2"), _named("tw2").replace('"usage_kwh":-1', '"usage_kwh":-1.0'), "duplicate"),
    *_twice("another offset", _named("tw3"), _named("tw3").replace("15:57:54Z", "17:57:54+02:00"), "duplicate"),
    *_twice("within a millisecond", _named("tw4"), _named("tw4").replace("54Z", "54.0009Z"), "duplicate"),
    *_twice("with its version", _named("tw5"), _named("tw5").replace("}", ',"schema_version":1}'), "duplicate"),
    *_twice("register null", _named("tw6"), _named("tw6").replace("}", ',"register":null}'), "duplicate"),
    *_twice("another usage", _named("tw7"), _named("tw7").replace("-1", "-2"), "conflict"),
    *_twice("a healthy usage", _named("tw8"), _named("tw8").replace("-1", "2"), "conflict"),
    *_twice("a register", _named("tw9"), _named("tw9").replace("}", ',"register":0}'), "conflict"),
    *_twice("another meter type", _named("tw10"), _named("tw10", WATER), "conflict"),
    *_twice("the next millisecond", _named("tw11"), _named("tw11").replace("54Z", "54.001Z"), "faulty"),
]

CASES: list[Case] = [*GOOD, *BAD, *TWICE]
