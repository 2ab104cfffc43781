"""Presets: the layouts of well-known public data sets."""

from metering.meter_types import MeterType
from streaming.replay.csv_layout import CsvLayout

PRESETS: dict[str, CsvLayout] = {
    # DAIAD trial A, Alicante: about hourly, litres since the last reading and the cumulative counter.
    "daiad": CsvLayout(
        meter_type=MeterType.WATER,
        device_column="user key",
        time_columns=("datetime",),
        time_format="%d/%m/%Y %H:%M:%S",
        timezone="Europe/Madrid",
        value_column="diff",
        register_column="meter reading",
        unit="L",
        separator=";",
        interval_seconds=3600,
    ),
    # Smart-Grid Smart-City, New South Wales: 48 slots every day of the year, hence standard time without summer time.
    "sgsc": CsvLayout(
        meter_type=MeterType.ELECTRICITY,
        device_column="customer_id",
        household_column="customer_id",
        time_columns=("reading_datetime",),
        timezone="+10:00",
        value_column="general_supply_kwh",
        unit="kWh",
        interval_seconds=1800,
    ),
    # UCI household near Paris: kW averaged over each minute; '?' where nothing was measured.
    "uci": CsvLayout(
        meter_type=MeterType.ELECTRICITY,
        device_id="uci-household-1",
        time_columns=("Date", "Time"),
        time_format="%d/%m/%Y %H:%M:%S",
        timezone="Europe/Paris",
        value_column="Global_active_power",
        unit="kW",
        separator=";",
        interval_seconds=60,
        missing=frozenset({"", "?"}),
    ),
}
