"""Cases of fields: missing, unknown, repeated, of another type, of both meter types, and versions."""

from meter_assets_tests.corpus.case import ELECTRICITY, WATER, Case, refused, taken


def _with(more: str, text: str = ELECTRICITY) -> str:
    return f"{text[:-1]},{more}}}"


def _usage(value: str) -> str:
    return ELECTRICITY.replace("-1", value)


GOOD = [
    *taken(
        "good readings",
        {
            "electricity": ELECTRICITY,
            "water": WATER,
            "another order": '{"usage_kwh":-1,"timestamp":"2024-05-27T15:57:54Z","device_id":"em1"}',
            "register": _with('"register":123456.789'),
            "register null": _with('"register":null'),
            "version": _with('"schema_version":1'),
            "all fields": _with('"register":1,"schema_version":1', WATER),
            "negative usage": _usage("-3.5"),
        },
    ),
    *taken(
        "good readings",
        {"healthy electricity": _usage("10.25"), "healthy water": WATER.replace("-1", "7.5"), "zero": _usage("0")},
        "healthy",
    ),
]

MISSING = refused(
    "missing fields",
    {
        "no device": '{"timestamp":"2024-05-27T15:57:54Z","usage_kwh":-1}',
        "no timestamp": '{"device_id":"em1","usage_kwh":-1}',
        "no usage": '{"device_id":"em1","timestamp":"2024-05-27T15:57:54Z"}',
        "water without flow": WATER.replace(',"flow_rate":-1', ""),
        "water without usage": WATER.replace(',"usage":13', ""),
        "only a register": '{"device_id":"em1","timestamp":"2024-05-27T15:57:54Z","register":5}',
        "only a device": '{"device_id":"em1"}',
    },
)

BOTH = refused(
    "both meter types",
    {
        "all amounts": _with('"usage":1,"flow_rate":1'),
        "kWh and litres": _with('"usage":1'),
        "kWh and flow": _with('"flow_rate":-1'),
        "kWh null beside litres": _with('"usage_kwh":null', WATER),
        "litres null beside kWh": _with('"usage":null,"flow_rate":null'),
        "flow null beside kWh": _with('"flow_rate":null'),
    },
)

UNKNOWN = refused(
    "unknown fields",
    {
        "a colour": _with('"colour":"green"'),
        "null": _with('"colour":null'),
        "an object": _with('"colour":{}'),
        "an array": _with('"colour":[1]'),
        "MongoDB's key": _with('"_id":"x"'),
        "MongoDB's operator": _with('"$where":"1"'),
        "operator as a value": _usage('{"$gt":0}'),
        "path of a field": _with('"usage.kwh":1'),
        "dot": _with('".":1'),
        "dollar": _with('"$":1'),
        "empty name": _with('"":1'),
        "blank name": _with('" ":1'),
        "prototype": _with('"__proto__":{}'),
        "python's name of the register": _with('"register_":1'),
        "capital letter": ELECTRICITY.replace("device_id", "Device_id"),
        "all capitals": ELECTRICITY.replace("usage_kwh", "USAGE_KWH"),
        "camel case": ELECTRICITY.replace("device_id", "deviceId"),
        "blank in a name": ELECTRICITY.replace("device_id", "device_id "),
        "NUL in a name": ELECTRICITY.replace("device_id", "device_id\\u0000"),
        "quote in a name": _with('"a\\"b":1'),
        "brace in a name": _with('"{":1'),
        "backtick in a name": _with('"`register":1'),
        "Spark's corrupt record": _with('"_corrupt_record":"x"'),
        "received_at": _with('"received_at":"2024-05-27T15:57:54Z"'),
        "meter_type": _with('"meter_type":"electricity"'),
        "a cyrillic letter": ELECTRICITY.replace("device_id", "d\u0435vice_id"),
        "a name like two fields": _with('"register: BIGINT, schema_version":1'),
        "a name like a number's type": _with('"register: BIGINT, x":1'),
        "a name that closes the type": _with('"schema_version: BIGINT>":1'),
        "a name of 3,000 characters": _with(f'"{"n" * 3000}":1'),
        "two hundred fields": _with(",".join(f'"f{number}":1' for number in range(200))),
    },
)

REPEATED = refused(
    "repeated fields",
    {
        "the same usage": _with('"usage_kwh":-1'),
        "another usage": _with('"usage_kwh":-2'),
        "a good usage last": _usage('{},"usage_kwh":-1'),
        "a text first": _usage('"x","usage_kwh":-1'),
        "null first": _usage('null,"usage_kwh":-1'),
        "an array first": _usage('[1],"usage_kwh":-1'),
        "true first": _usage('true,"usage_kwh":-1'),
        "device": _with('"device_id":"em2"'),
        "timestamp": _with('"timestamp":"2024-05-27T15:57:55Z"'),
        "register": _with('"register":1,"register":1'),
        "register null first": _with('"register":null,"register":1'),
        "register null last": _with('"register":1,"register":null'),
        "version": _with('"schema_version":1,"schema_version":1'),
        "version 2 first": _with('"schema_version":2,"schema_version":1'),
        "flow": _with('"flow_rate":-1', WATER),
        "written with an escape": _with('"\\u0075sage_kwh":-1'),
        "a quote in the first": _with('"device_id":"em1"').replace('"em1"', '"e\\"m"', 1),
        "every field": _with(ELECTRICITY[1:-1]),
        "a hundred times": _with(",".join(['"usage_kwh":-1'] * 100)),
    },
    schema_misses=True,
)

TYPES = [
    *refused(
        "wrong types",
        {
            **{
                f"usage is {name}": _usage(value)
                for name, value in {
                    "a text": '"-1"',
                    "an empty text": '""',
                    "NaN as a text": '"NaN"',
                    "Infinity as a text": '"-Infinity"',
                    "true": "true",
                    "false": "false",
                    "null": "null",
                    "an array": "[-1]",
                    "an empty array": "[]",
                    "an object": "{}",
                }.items()
            },
            "flow is a text": WATER.replace("-1", '"-1"'),
            "flow is false": WATER.replace("-1", "false"),
            "flow is null": WATER.replace("-1", "null"),
            "litres are null": WATER.replace("13", "null"),
            "register is a text": _with('"register":"1"'),
            "register is true": _with('"register":true'),
            "register is an array": _with('"register":[]'),
            "register is an object": _with('"register":{}'),
            "device is a number": ELECTRICITY.replace('"em1"', "7"),
            "device is null": ELECTRICITY.replace('"em1"', "null"),
            "device is true": ELECTRICITY.replace('"em1"', "true"),
            "device is an array": ELECTRICITY.replace('"em1"', '["em1"]'),
            "device is an object": ELECTRICITY.replace('"em1"', '{"id":"em1"}'),
            "nested 50 deep": _usage("[" * 50 + "]" * 50),
        },
    ),
]

VERSIONS = [
    *refused(
        "schema versions",
        {
            name: _with(f'"schema_version":{value}')
            for name, value in {
                "0": "0",
                "2": "2",
                "-1": "-1",
                "1.5": "1.5",
                "a text": '"1"',
                "an empty text": '""',
                "true": "true",
                "null": "null",
                "an array": "[1]",
                "an object": "{}",
                "2^31": "2147483648",
                "1 beyond 32 bits": "4294967297",
                "-2^31 - 1": "-2147483649",
                "2^63": "9223372036854775808",
                "1 beyond 64 bits": "18446744073709551617",
                "100 digits": "1" * 100,
                "1e400": "1e400",
            }.items()
        },
    ),
    *refused(
        "schema versions",
        {
            "1.0": _with('"schema_version":1.0'),
            "1e0": _with('"schema_version":1e0'),
            "10e-1": _with('"schema_version":10e-1'),
        },
        schema_misses=True,  # JSON Schema has no type of a number's text: 1.0 is an integer
    ),
]

CASES: list[Case] = [*GOOD, *MISSING, *BOTH, *UNKNOWN, *REPEATED, *TYPES, *VERSIONS]
