"""Messages made by chance: readings with some parts changed, and bytes changed in those and in the corpus."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone

from meter_assets_tests.corpus import CASES
from metering.reading import ALL_FIELDS, MAX_MESSAGE_BYTES

JSON_BLANKS = (" ", "  ", "\t", "\n", "\r", "\r\n")
OTHER_BLANKS = ("\v", "\f", "\0", "\x1e", "\x7f", "\u0085", "\u00a0", "\u2003", "\u2028", "\u2029", "\u3000", "\ufeff")

VALUES = (
    *("null", "true", "false", "[]", "{}", '""', '"-1"', "[-1]", '{"a":1}', "NaN", "Infinity", "-Infinity"),
    *("0", "-0", "-0.0", "1", "-1", "-1.0", "-1e0", "-10e-1", "1e999", "-1e999", "1e-999", "5e-324", "2.5e-324"),
    *("999999999", "-999999999", "999999999.0000001", "1000000000", "1e9", "1e15", "1000000000000001", "-1e15"),
    *("2147483647", "2147483648", "4294967297", "9007199254740993", "9223372036854775807", "9223372036854775808"),
    *("18446744073709551617", "1.7976931348623157e308", "1.7976931348623159e308", "2.2250738585072011e-308"),
    *("01", "+1", ".5", "1.", "1e", "--1", "0x1", "1_0", "-", "1e5.5", "1,5", "9" * 500, "9" * 501, "0." + "1" * 600),
)
TIMES = (
    *("1716825474", "2024-05-27", "2024-05-27T15:57:54", "2024-02-30T00:00:00Z", "2024-05-27T24:00:00Z"),
    *("1999-12-31T23:59:59.999Z", "2000-01-01T00:00:00Z", "2099-12-31T23:59:59.999999999Z", "2100-01-01T00:00:00Z"),
    *("2024-05-27T15:57:54\u221205:00", "2024-05-27T15:57:60Z", "2024-W22-1T00:00:00Z", "", "Z", "now"),
)
OFFSETS = ("Z", "z", "+00:00", "-00:00", "+02:00", "+0530", "-11:30", "+14:00", "+18:00", "-1800", "-17:59")
ODD_OFFSETS = (
    "+2",
    "+02",
    "+02:60",
    "+24:00",
    "",
    " Z",
    "UTC",
    "+02:00:00",
    "[UTC]",
    "\u221205:00",
    "+18:01",
    "-19:00",
)
NAMES = (*ALL_FIELDS, "usage_kWh", "Device_id", "register_", "_id", "$where", "a.b", "", "device_id ", "received_at")
NAMES_LIKE_TYPES = ("register: BIGINT, schema_version", "`register`", "flow_rate: DOUBLE, usage", "usage_kwh: BIGINT>")
ID_SIGNS = "abcxyzABCXYZ0123456789_.:-"
ODD_SIGNS = ID_SIGNS + "|/$ \u00e9\u0663\u2028"
TOKENS = (
    *(b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"-", b"+", b".", b"0", b"1", b"9", b"e", b"E", b" ", b"\n"),
    *(b"\x00", b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\\u0000", b"\\ud800", b"\\u0031", b"\\n"),
    *(b"null", b"true", b"NaN", b"Infinity", b"/*", b"*/", b"//", b"'", b"T", b"Z", b"z", b"t", b"_", b"+02:00", b".5"),
    *(b'"usage_kwh":-1', b'"register":1', b'"schema_version":1', b'"flow_rate":-1', b'"usage":1', b'"device_id":"m"'),
)


class Mutator:
    """An endless source of messages; one seed gives one sequence."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        # Longer ones differ in nothing but their length, and are few.
        self._known = [case.value for case in CASES if case.value and len(case.value) <= MAX_MESSAGE_BYTES]

    def messages(self) -> Iterator[bytes]:
        """Half of them are readings with changes, of which most remain readings; half have changed bytes."""
        while True:
            yield self._written()
            message = self._written() if self._chance.random() < 0.7 else self._chance.choice(self._known)
            for _ in range(self._chance.choice((1, 1, 1, 2, 3, 8))):
                message = self._changed(message)
            yield message

    # From here: a reading, part by part.

    def _written(self) -> bytes:
        chance = self._chance
        fields = [("device_id", self._string(self._device())), ("timestamp", self._string(self._time()))]
        if chance.random() < 0.6:
            fields.append(("usage_kwh", self._number()))
        else:
            fields += [("usage", self._number()), ("flow_rate", self._number())]
        if chance.random() < 0.2:
            fields.append(("register", self._number() if chance.random() < 0.8 else "null"))
        if chance.random() < 0.2:
            fields.append(("schema_version", "1"))
        if chance.random() < 0.3:
            chance.shuffle(fields)
        while chance.random() < 0.15:
            fields = self._with_another_field(fields)
        colon, comma = self._blanks(":"), self._blanks(",")
        text = comma.join(f"{self._string(name)}{colon}{value}" for name, value in fields)
        return f"{self._blanks('{')}{text}{self._blanks('}')}".encode("utf-8", "surrogatepass")

    def _with_another_field(self, fields: list[tuple[str, str]]) -> list[tuple[str, str]]:
        chance = self._chance
        position = chance.randrange(len(fields)) if fields else 0
        kind = chance.randrange(6)
        if kind == 0 or not fields:
            name = chance.choice(NAMES_LIKE_TYPES) if chance.random() < 0.2 else chance.choice(NAMES)
            return [*fields[:position], (name, self._value()), *fields[position:]]
        name, value = fields[position]
        if kind == 1:
            return fields[:position] + fields[position + 1 :]
        if kind == 2:
            return [*fields, (name, value if chance.random() < 0.5 else self._value())]
        if kind == 3:
            return [(name, self._value()), *fields]
        changed = (chance.choice(NAMES), value) if kind == 4 else (name, self._value())
        return [*fields[:position], changed, *fields[position + 1 :]]

    def _value(self) -> str:
        return self._chance.choice((self._number(), self._chance.choice(VALUES), self._string(self._time())))

    def _number(self) -> str:
        chance = self._chance
        kind = chance.randrange(8)
        if chance.random() < 0.06:
            return chance.choice(VALUES)
        if kind < 3:
            return "-1"
        sign = chance.choice(("", "-"))
        if kind == 3:
            return f"{sign}{chance.randrange(10 ** chance.randrange(1, 10))}"
        if kind == 4:
            return f"{sign}{chance.random() * 10 ** chance.randrange(-5, 9)!r}"
        if kind == 5:
            return f"{sign}{chance.randrange(10)}.{chance.randrange(10 ** chance.randrange(1, 40))}"
        if kind == 6:
            exponent = chance.randrange(-330, 330) if chance.random() < 0.2 else chance.randrange(-12, 9)
            return f"{sign}{chance.random():.17f}{chance.choice('eE')}{chance.choice(('', '+'))}{exponent}"
        return f"{sign}{chance.getrandbits(chance.randrange(1, 200 if chance.random() < 0.2 else 30))}"

    def _time(self) -> str:
        chance = self._chance
        if chance.random() < 0.04:
            return chance.choice(TIMES)
        instant = datetime(1999, 12, 30, tzinfo=UTC) + timedelta(
            microseconds=chance.randrange(100 * 366 * 86_400 * 1_000_000)
        )
        if chance.random() < 0.5:
            offset = timezone(timedelta(minutes=chance.randrange(-1080, 1081)))
            return instant.astimezone(offset).isoformat(timespec=chance.choice(("auto", "seconds", "minutes")))
        day, clock = instant.strftime("%Y-%m-%d"), instant.strftime("%H:%M")
        if chance.random() < 0.9:
            clock += instant.strftime(":%S")
            if chance.random() < 0.5:
                digits = chance.randrange(1, 13 if chance.random() < 0.1 else 10)
                clock += f"{chance.choice('..,')}{chance.randrange(10**digits):0{digits}}"
        zone = chance.choice(ODD_OFFSETS) if chance.random() < 0.06 else chance.choice(OFFSETS)
        return f"{day}{chance.choice('TTTTt _')}{clock}{zone}"

    def _device(self) -> str:
        chance = self._chance
        if chance.random() < 0.08:
            return "".join(chance.choices(ODD_SIGNS, k=chance.choice((0, 1, 2, 3, 64, 65))))
        return "m" + "".join(chance.choices(ID_SIGNS, k=chance.choice((0, 1, 2, 7, 16, 62, 63))))

    def _string(self, text: str) -> str:
        if text and self._chance.random() < 0.05:
            position = self._chance.randrange(len(text))
            text = f"{text[:position]}\\u{ord(text[position]):04x}{text[position + 1 :]}"
        return f'"{text}"'

    def _blanks(self, sign: str) -> str:
        chance = self._chance
        dice = chance.random()
        if dice > 0.2:
            return sign
        blank = chance.choice(OTHER_BLANKS) if dice < 0.01 else chance.choice(JSON_BLANKS)
        return chance.choice((blank + sign, sign + blank, blank + sign + blank))

    # From here: any bytes.

    def _changed(self, message: bytes) -> bytes:
        chance = self._chance
        start = chance.randrange(len(message) + 1)
        end = min(len(message), start + chance.choice((0, 1, 1, 1, 2, 4, 16, 64)))
        kind = chance.randrange(9)
        if kind == 0:
            return message[:start] + bytes([chance.randrange(256)]) + message[end:]
        if kind == 1:
            return message[:start] + chance.choice(TOKENS) + message[end:]
        if kind == 2:
            return message[:start] + chance.choice(TOKENS) + message[start:]
        if kind == 3:
            return message[:start] + message[end:]
        if kind == 4:
            return message[:end] + message[start:]
        if kind == 5 and start < len(message):
            return message[:start] + bytes([message[start] ^ 1 << chance.randrange(8)]) + message[start + 1 :]
        if kind == 6:
            other = chance.choice(self._known)
            return message[:start] + other[chance.randrange(len(other)) :]
        if kind == 7:
            other = chance.randrange(len(message) + 1)
            return message[:other] + message[start:end] + message[other:]
        return message[:start]
