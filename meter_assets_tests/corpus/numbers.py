"""Cases of numbers: their limits, their forms, and how they are kept."""

from meter_assets_tests.corpus.case import ELECTRICITY, INVALID_JSON, WATER, Case, refused, taken


def _usage(*values: str) -> dict[str, str]:
    return {_short(value): ELECTRICITY.replace("-1", value) for value in values}


def _register(*values: str) -> dict[str, str]:
    return {f"register {_short(value)}": f'{ELECTRICITY[:-1]},"register":{value}}}' for value in values}


def _short(value: str) -> str:
    return value if len(value) <= 40 else f"{value[:10]}… of {len(value)} characters"


KEPT: dict[str, float] = {
    "-1": -1.0,
    "-1.0": -1.0,
    "-1.00000000000000000000000000000000000000000000000000": -1.0,
    "-1.0000000000000000000001": -1.0,
    "-1e0": -1.0,
    "-1E0": -1.0,
    "-10e-1": -1.0,
    "-0.1e1": -1.0,
    "-0.1E+1": -1.0,
    "-0.0000000000000000000000000000000001e34": -1.0,
    "-1.5": -1.5,
    "-0.1": -0.1,
    "-0.30000000000000004": -0.30000000000000004,
    "-123456.78901234567890123456789": -123456.78901234568,
    "-999999999": -999999999.0,
    "-999999999.0": -999999999.0,
    "-999999999.00000000000001": -999999999.0,
    "-999999998.9999999": -999999998.9999999,
    "-9.99999999e8": -999999999.0,
    "-1e-5": -1e-05,
    "-1e-300": -1e-300,
    "-2.2250738585072014e-308": -2.2250738585072014e-308,
    "-2.2250738585072011e-308": -2.225073858507201e-308,
    "-5e-324": -5e-324,
    "-1.0" + "0" * 496: -1.0,
}
"""Numbers below zero, so each is faulty; as the nearest double."""

KEPT_HEALTHY: dict[str, float] = {
    "0": 0.0,
    "-0": 0.0,
    "-0.0": 0.0,
    "0.0": 0.0,
    "-0e10": 0.0,
    "0e99999999999999999999": 0.0,
    "0.1": 0.1,
    "9007199254740993e-7": 900719925.4740993,
    "999999999": 999999999.0,
    "1e-400": 0.0,
    "-1e-400": 0.0,
    "1e-99999999999": 0.0,
    "7.2057594037927933e-8": 7.205759403792793e-08,
    "0." + "3" * 490: 1 / 3,
    "1" + "0" * 399 + "e-399": 1.0,
}
"""Not below zero: neither -0.0 nor what is too small for a double."""

GOOD = [
    *(case for text, number in KEPT.items() for case in taken("numbers", _usage(text), usage_kwh=number)),
    *(
        case
        for text, number in KEPT_HEALTHY.items()
        for case in taken("numbers", _usage(text), "healthy", usage_kwh=number)
    ),
    *(
        case
        for text, number in {
            "0": 0.0,
            "-5.5": -5.5,
            "1000000000000000": 1e15,
            "-1000000000000000": -1e15,
            "1e15": 1e15,
            "999999999999999.9": 999999999999999.9,
            "123456789012345.678901": 123456789012345.67,
        }.items()
        for case in taken("numbers", _register(text), register=number)
    ),
]

OUT_OF_BOUNDS = refused(
    "numbers out of bounds",
    {
        **_usage(
            "1000000000",
            "-1000000000",
            "999999999.0000002",
            "-999999999.0000002",
            "1e9",
            "1e300",
            "-1e308",
            "1.7976931348623157e308",
            "2147483648",
            "4294967295",
            "9007199254740993",
            "9223372036854775807",
            "-9223372036854775808",
            "9223372036854775808",
            "18446744073709551615",
            "-170141183460469231731687303715884105729",
            "1" * 39,
            "-" + "9" * 309,
        ),
        **_register(
            "1000000000000001", "-1000000000000001", "1000000000000000.2", "1e16", "1e308", "9223372036854775808"
        ),
        "flow 1e300": WATER.replace("-1", "1e300"),
        "litres -1e9": WATER.replace("13", "-1e9"),
    },
) + refused(
    # The nearest double is infinite.
    "numbers beyond a double",
    {
        **_usage("1e309", "-1e309", "1e999", "-1e999", "1.8e308", "1e99999999999999999999"),
        **_register("1e400"),
        "flow 1e999": WATER.replace("-1", "1e999"),
    },
)

TOO_LONG = refused(
    "numbers of too many characters",
    {
        **_usage(
            "-1." + "0" * 498,
            "-1." + "0" * 1005,
            "-0." + "1" * 3000,
            "1e" + "0" * 1500 + "1",
            "-1" + "0" * 3500 + "e-3500",
        ),
        **_register("1." + "0" * 1000),
    },
    schema_misses=True,
) + refused("numbers of too many characters", {**_usage("9" * 4000, "-" + "9" * 1001), **_register("9" * 600)})

NOT_A_NUMBER = refused("no numbers", _usage("NaN", "Infinity", "-Infinity")) + refused(
    "no numbers",
    {
        **_usage(
            "-NaN",
            "nan",
            "inf",
            "-inf",
            "INF",
            "+1",
            "--1",
            "-",
            "+",
            "01",
            "-01",
            "00",
            "-1.",
            ".5",
            "-.5",
            "1e",
            "1e+",
            "1e1.5",
            "1e0x10",
            "0x10",
            "0b1",
            "0o7",
            "1_000",
            "1,5",
            "1 000",
            "- 1",
            "1f",
            "1d",
            "1L",
            "1n",
            "1kWh",
            "1/2",
            "1-1",
            "\u0661",
            "\uff11",
            "\u22121",
            "\u221e",
            "\u00bd",
        ),
    },
    INVALID_JSON,
)

CASES: list[Case] = [*GOOD, *OUT_OF_BOUNDS, *TOO_LONG, *NOT_A_NUMBER]
