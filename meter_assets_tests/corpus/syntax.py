"""Cases of JSON's syntax: blanks, broken and foreign forms, things that are no object, encodings."""

import gzip
import json

from meter_assets_tests.corpus.case import ELECTRICITY, INVALID_JSON, Case, refused, taken

JSON_BLANKS = {"space": " ", "tab": "\t", "line feed": "\n", "carriage return": "\r"}

OTHER_BLANKS = {
    "vertical tab": "\v",
    "form feed": "\f",
    "file separator": "\x1c",
    "group separator": "\x1d",
    "record separator": "\x1e",
    "unit separator": "\x1f",
    "NUL": "\0",
    "DEL": "\x7f",
    "next line": "\u0085",
    "no-break space": "\u00a0",
    "ogham space": "\u1680",
    "em space": "\u2003",
    "zero-width space": "\u200b",
    "line separator": "\u2028",
    "paragraph separator": "\u2029",
    "narrow no-break space": "\u202f",
    "mathematical space": "\u205f",
    "word joiner": "\u2060",
    "ideographic space": "\u3000",
    "byte order mark": "\ufeff",
}


def _around(blank: str) -> dict[str, str]:
    return {
        "before": blank + ELECTRICITY,
        "after": ELECTRICITY + blank,
        "inside": ELECTRICITY.replace(":-1", f":{blank}-1"),
    }


BLANKS = [
    *(
        case
        for name, blank in JSON_BLANKS.items()
        for case in taken("JSON's blanks", {f"{name} {where}": text for where, text in _around(blank).items()})
    ),
    *taken(
        "JSON's blanks",
        {
            "windows line end": ELECTRICITY + "\r\n",
            "pretty-printed": json.dumps(json.loads(ELECTRICITY), indent=2),
            "hundreds": " " * 500 + ELECTRICITY + "\n" * 500,
        },
    ),
    *(
        case
        for name, blank in OTHER_BLANKS.items()
        for case in refused(
            "other blanks", {f"{name} {where}": text for where, text in _around(blank).items()}, INVALID_JSON
        )
    ),
]

TRUNCATED = refused(
    "truncated",
    {
        f"{ELECTRICITY[:length][-12:]}": ELECTRICITY[:length]
        for length in (1, 2, 5, 12, 13, 15, 17, 18, 19, 30, 31, 40, 54, 55, 66, 67, 68)
    },
    INVALID_JSON,
)

BROKEN = refused(
    "broken JSON",
    {
        "empty": "",
        "a word": "garbage",
        "single quotes": ELECTRICITY.replace('"', "'"),
        "typographic quotes": ELECTRICITY.replace('"', "\u201d"),
        "unquoted names": ELECTRICITY.replace('"device_id"', "device_id"),
        "comma at the end": ELECTRICITY[:-1] + ",}",
        "comma at the beginning": "{," + ELECTRICITY[1:],
        "two commas": ELECTRICITY.replace(",", ",,", 1),
        "no comma": ELECTRICITY.replace(",", " ", 1),
        "semicolons": ELECTRICITY.replace(",", ";"),
        "equals signs": ELECTRICITY.replace('":', '"='),
        "no colon": ELECTRICITY.replace('":', '"', 1),
        "two colons": ELECTRICITY.replace('":', '"::', 1),
        "line comment": ELECTRICITY + "// end",
        "block comment": ELECTRICITY.replace(",", ",/* then */", 1),
        "hash comment": ELECTRICITY + "\n# end",
        "brackets for braces": "[" + ELECTRICITY[1:-1] + "]",
        "brace at the end": ELECTRICITY + "}",
        "brace at the beginning": "{" + ELECTRICITY,
        "bracket at the end": ELECTRICITY + "]",
        "word at the end": ELECTRICITY + " x",
        "null at the end": ELECTRICITY + " null",
        "comma after the object": ELECTRICITY + ",",
        "two readings": ELECTRICITY + ELECTRICITY,
        "two readings in two lines": f"{ELECTRICITY}\n{ELECTRICITY}\n",
        "reading and empty object": ELECTRICITY + "{}",
        "prefix against hijacking": ")]}'\n" + ELECTRICITY,
        "server-sent event": "data: " + ELECTRICITY,
        "JSON text sequence": "\x1e" + ELECTRICITY + "\n",
        "javascript": f"reading = {ELECTRICITY};",
        "python": ELECTRICITY[:-1] + ',"register":None}',
        "undefined": ELECTRICITY.replace("-1", "undefined"),
        "line break in a text": ELECTRICITY.replace("em1", "em\n1"),
        "tab in a text": ELECTRICITY.replace("em1", "em\t1"),
        "NUL in a text": ELECTRICITY.replace("em1", "em\x001"),
        "unknown escape": ELECTRICITY.replace("em1", "em\\x31"),
        "short escape": ELECTRICITY.replace("em1", "em\\u31"),
        "escape of a quote's end": ELECTRICITY.replace("em1", "em1\\"),
        "octal escape": ELECTRICITY.replace("em1", "em\\061"),
        "nested 500 deep": ELECTRICITY.replace("-1", "[" * 500 + "]" * 500),
    },
    INVALID_JSON,
)

FOREIGN = refused(
    "other formats",
    {
        "gzip": gzip.compress(ELECTRICITY.encode(), mtime=0),
        "schema registry's prefix": b"\x00\x00\x00\x00\x01" + ELECTRICITY.encode(),
        "CSV": "em1,2024-05-27T15:57:54Z,-1",
        "XML": "<reading><device_id>em1</device_id></reading>",
        "YAML": "device_id: em1\ntimestamp: 2024-05-27T15:57:54Z\nusage_kwh: -1\n",
        "form": "device_id=em1&timestamp=2024-05-27T15%3A57%3A54Z&usage_kwh=-1",
        "CBOR": bytes.fromhex("a3696465766963655f696463656d31"),
        "message pack": bytes.fromhex("83a96465766963655f6964a3656d31"),
        "DLMS frame": bytes.fromhex("7ea0210223219318717e"),
        "ESC sequence": "\x1b[2J" + ELECTRICITY,
    },
    INVALID_JSON,
)

NO_OBJECT = refused(
    "no object",
    {
        "null": "null",
        "true": "true",
        "number": "5",
        "minus one": "-1",
        "string": '"reading"',
        "a reading as a string": json.dumps(ELECTRICITY),
        "empty array": "[]",
        "array of a reading": f"[{ELECTRICITY}]",
        "array of the values": '["em1","2024-05-27T15:57:54Z",-1]',
    },
) + refused(
    "no reading's object",
    {
        "empty": "{}",
        "of blanks": "{ \n }",
        "reading within": f'{{"reading":{ELECTRICITY}}}',
        "a Debezium envelope": f'{{"schema":null,"payload":{ELECTRICITY}}}',
        "an error report": '{"error":"no signal"}',
    },
)

ENCODINGS = [
    *refused(
        "encodings",
        {
            "invalid byte in a text": ELECTRICITY.encode().replace(b"em1", b"em\xff"),
            "invalid byte in a name": ELECTRICITY.encode().replace(b"device", b"devi\xffe"),
            "invalid byte between": ELECTRICITY.encode().replace(b",", b",\xff", 1),
            "invalid byte at the end": ELECTRICITY.encode() + b"\xff",
            "cut character in a text": ELECTRICITY.encode().replace(b"em1", b"em\xc3"),
            "continuation byte alone": ELECTRICITY.encode().replace(b"em1", b"em\x80"),
            "overlong letter": ELECTRICITY.encode().replace(b"em1", b"e\xc1\xad1"),
            "overlong quote": ELECTRICITY.encode().replace(b'"em1"', b"\xc0\xa2em1\xc0\xa2"),
            "overlong blank": ELECTRICITY.encode().replace(b":-1", b":\xc0\xa0-1"),
            "overlong NUL": ELECTRICITY.encode().replace(b"em1", b"em\xc0\x80"),
            "surrogate in UTF-8": ELECTRICITY.encode().replace(b"em1", b"em\xed\xa0\x80"),
            "beyond Unicode": ELECTRICITY.encode().replace(b"em1", b"em\xf4\x90\x80\x80"),
            "five-byte character": ELECTRICITY.encode().replace(b"em1", b"em\xf8\x88\x80\x80\x80"),
            "latin 1": ELECTRICITY.replace("em1", "em\u00e9").encode("latin-1"),
            "UTF-16 with a mark": ELECTRICITY.encode("utf-16"),
            "UTF-16 little endian": ELECTRICITY.encode("utf-16-le"),
            "UTF-16 big endian": ELECTRICITY.encode("utf-16-be"),
            "UTF-32 little endian": ELECTRICITY.encode("utf-32-le"),
            "UTF-32 big endian": ELECTRICITY.encode("utf-32-be"),
            "UTF-7": ELECTRICITY.replace("em1", "em\u00e9").encode("utf-7").replace(b"{", b"+AHs-"),
            "EBCDIC": ELECTRICITY.encode("cp037"),
            "lone high surrogate": ELECTRICITY.replace("em1", "em\\ud800"),
            "lone low surrogate": ELECTRICITY.replace("em1", "em\\udc00"),
            "surrogates in the wrong order": ELECTRICITY.replace("em1", "em\\udc00\\ud800"),
            "lone surrogate in a name": ELECTRICITY.replace("device_id", "device_id\\ud800"),
        },
        INVALID_JSON,
    ),
    *refused(
        "encodings",
        {
            "pair of surrogates": ELECTRICITY.replace("em1", "em\\ud83d\\ude00"),
            "replacement character": ELECTRICITY.replace("em1", "em\ufffd"),
            "emoji": ELECTRICITY.replace("em1", "em\U0001f600"),
            "DEL in a text": ELECTRICITY.replace("em1", "em\x7f1"),
            "escaped NUL": ELECTRICITY.replace("em1", "em\\u0000"),
        },
    ),
    *taken(
        "escapes",
        {
            "digit of a device id": ELECTRICITY.replace("em1", "es\\u0031"),
            "letter of a name": ELECTRICITY.replace("device_id", "\\u0064evice_id"),
            "name in full": ELECTRICITY.replace("usage_kwh", "".join(f"\\u{ord(sign):04X}" for sign in "usage_kwh")),
            "plus of an offset": ELECTRICITY.replace("54Z", "54\\u002B00:00"),
        },
    ),
]

CASES: list[Case] = [*BLANKS, *TRUNCATED, *BROKEN, *FOREIGN, *NO_OBJECT, *ENCODINGS]
