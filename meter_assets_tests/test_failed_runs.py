"""A run that fails becomes one alert with its reason and a link."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest

from meter_assets.automation.failed_run_sensor import failed_run_sensor
from metering.settings import Settings, load_settings
from metering.store import ALERTS
from runtime.database import connect


@pytest.fixture
def chosen(database: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """The test's own database in force for this process."""
    own = database.model_copy(update={"ui_url": "https://dagster.example.org/"})
    for name, value in own.environment().items():
        monkeypatch.setenv(name, value)
    load_settings.cache_clear()
    yield own
    monkeypatch.undo()
    load_settings.cache_clear()


@dg.op
def stumbles() -> None:
    """Fails as a day does whose invariants do not hold."""
    raise dg.Failure("1 of 3 days stay as they were: 2024-05-02", allow_retries=False)


def failed(instance: dg.DagsterInstance, name: str, **tags: str) -> dg.RunFailureSensorContext:
    job: Any = dg.GraphDefinition(name=name, node_defs=[stumbles]).to_job()
    result = job.execute_in_process(instance=instance, raise_on_error=False, tags=tags)
    run = instance.get_run_by_id(result.run_id)
    assert run
    return dg.build_run_status_sensor_context(
        sensor_name="failed_run_sensor",
        dagster_event=result.get_run_failure_event(),
        dagster_instance=instance,
        dagster_run=run,
    ).for_run_failure()


def alerts(settings: Settings) -> list[dict[str, Any]]:
    mongo = connect(settings)
    with mongo.client:
        return list(mongo[ALERTS].find())


def test_a_failed_run_is_told_once_with_its_days_reason_and_link(stack, chosen):
    with dg.DagsterInstance.ephemeral() as instance:
        context = failed(instance, "daily_readings_job", **{"dagster/partition": "2024-05-02"})
        failed_run_sensor(context)
        failed_run_sensor(context)
    (alert,) = alerts(chosen)
    assert alert["kind"] == "run_failed"
    assert alert["text"] == (
        "daily_readings_job of 2024-05-02 failed: 1 of 3 days stay as they were: 2024-05-02 "
        f"https://dagster.example.org/runs/{context.dagster_run.run_id}"
    )


def test_the_routers_runs_are_left_to_their_own_sensor(stack, chosen):
    with dg.DagsterInstance.ephemeral() as instance:
        failed_run_sensor(failed(instance, "fault_routing_job"))
    assert alerts(chosen) == []
