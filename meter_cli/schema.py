"""`meters schema`: the published form of the message contract."""

from meter_cli.console import print_json


def schema() -> None:
    """Print the JSON Schema of a message on iot-meter."""
    from metering.reading import reading_json_schema

    print_json(reading_json_schema())
