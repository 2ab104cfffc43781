"""What a run's own configuration may set: a short list of typed, harmless values, and nothing that runs code."""

import socket
from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest
from dagster_pyspark import LazyPySparkResource

from meter_assets.days.dead_runs import PROCESS_TAG, end_dead_runs
from meter_assets.definitions import defs
from meter_assets.resources import all_resources, spark_settings
from metering.settings import Settings

JOBS = ("__ASSET_JOB", "daily_readings_job", "late_readings_job", "fault_routing_job")

LOGGING = {
    "loggers.console.config.log_level": "String",
    "loggers.console.config.name": "String",
}
SETTABLE = dict.fromkeys(JOBS, LOGGING) | {
    "late_readings_job": {
        **LOGGING,
        "ops.recompute_days.config.days[]": "String",
        "ops.recompute_days.config.told[]": "String",
    },
}
"""All that can be set, with its type. String is text alone; Dagster's StringSource, which can read any variable of the
environment, and Any, which takes everything, would be listed as such."""

HOSTILE = {
    "JVM options": ("resources.pyspark.config.spark_config", {"spark.driver.extraJavaOptions": "-javaagent:x.jar"}),
    "nested JVM options": ("resources.pyspark.config.spark_config.spark.driver", {"extraJavaOptions": "-Dx=y"}),
    "jars": ("resources.pyspark.config.spark_config", {"spark.jars": "http://evil.example/x.jar"}),
    "plugins": ("resources.pyspark.config.spark_config", {"spark.plugins": "evil.Plugin"}),
    "another server": ("resources.pyspark.config.spark_config", {"spark.remote": "sc://evil.example"}),
    "another master": ("resources.pyspark.config.spark_config", {"spark.master": "spark://evil.example:7077"}),
    "Spark by other names": ("resources.pyspark.config", {"spark_conf": {}, "remote": "sc://evil.example"}),
    "MongoDB elsewhere": ("resources.mongo.config", {"uri": "mongodb://evil.example"}),
    "the lake elsewhere": ("resources.lake.config", {"path": "elsewhere"}),
    "a folder of pickles": ("resources.io_manager.config", {"base_dir": "elsewhere"}),
    "modules to load": (
        "execution.config",
        {"multiprocess": {"start_method": {"forkserver": {"preload_modules": ["antigravity"]}}}},
    ),
    "modules to load, in process": ("execution.config", {"start_method": {"spawn": {}}}),
    "markers": ("execution.config", {"marker_to_close": "x"}),
    "another logger": ("loggers", {"evil": {"config": {}}}),
    "inputs": ("ops.local_days.inputs", {"x": {"pickle": {"path": "x.pickle"}}}),
    "outputs": ("ops.recompute_days.outputs", [{"result": {"pickle": {"path": "x.pickle"}}}]),
    "an op's configuration": ("ops.route_faults.config", {"command": "sh"}),
    "a variable in the place of a day": ("ops.recompute_days.config.days", [{"env": "METERS_MONGO_URI"}]),
}


def leaves(config_type: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Everything that a configuration type takes, with the name of its type."""
    kind = config_type.kind.name
    if kind in ("STRICT_SHAPE", "PERMISSIVE_SHAPE", "SELECTOR"):
        for name, field in config_type.fields.items():
            yield from leaves(field.config_type, f"{path}.{name}" if path else name)
    elif kind in ("ARRAY", "NONEABLE"):
        yield from leaves(config_type.inner_type, f"{path}{'[]' if kind == 'ARRAY' else ''}")
    else:  # a scalar, or one of those that hide what they take
        yield path, config_type.given_name if kind == "SCALAR" else kind


@pytest.mark.parametrize("job", JOBS)
def test_all_that_a_runs_configuration_may_set_is_this(job: str):
    schema = defs.get_repository_def().get_job(job).run_config_schema.config_type
    assert dict(leaves(schema)) == SETTABLE[job]


def test_there_are_no_other_jobs():
    assert {job.name for job in defs.get_repository_def().get_all_jobs()} == set(JOBS)


@pytest.mark.parametrize("name", HOSTILE)
def test_dagsters_own_validation_refuses_what_would_run_code_or_read_elsewhere(name: str):
    path, value = HOSTILE[name]
    config: Any = value
    for part in reversed(path.split(".")):
        config = {part: config}
    refused = []
    for job in (job for job in JOBS if job != "__ASSET_JOB"):
        definition = defs.resolve_job_def(job)
        if path.startswith("ops.") and path.split(".")[1] not in definition.graph.node_dict:
            continue
        with pytest.raises(dg.DagsterInvalidConfigError):
            dg.validate_run_config(definition, config)
        refused.append(job)
    assert refused


def test_the_asset_job_has_room_for_no_more():
    """Its shapes are permissive: resources and assets that a run does not use may be named, and are not read."""
    with dg.DagsterInstance.ephemeral() as instance, pytest.raises(dg.DagsterInvalidConfigError, match=r"spark\.jars"):
        defs.get_implicit_global_asset_job_def().execute_in_process(
            run_config={"resources": {"pyspark": {"config": {"spark_config": {"spark.jars": "x.jar"}}}}},
            partition_key="2025-02-01",
            instance=instance,
        )


def test_a_day_that_is_none_ends_its_run_in_one_line():
    job = defs.resolve_job_def("late_readings_job")
    with dg.DagsterInstance.ephemeral() as instance:
        config = {"ops": {"recompute_days": {"config": {"days": ["yesterday"]}}}}
        result = job.execute_in_process(run_config=config, instance=instance, raise_on_error=False)
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "no ISO date" in failure.step_failure_data.error_display_string
    assert failure.step_failure_data.user_failure_data is not None


def test_spark_is_dagster_pysparks_resource_with_the_options_of_the_settings():
    resource = all_resources()["pyspark"]
    assert isinstance(resource, LazyPySparkResource)
    connect = Settings(spark_remote="sc://127.0.0.1:1", spark_master=None)
    assert spark_settings(connect)["spark.remote"] == "sc://127.0.0.1:1"
    own = Settings(spark_remote=None, spark_master="local[2]", spark_jars="x.jar")
    assert spark_settings(own)["spark.jars"] == "x.jar"
    assert "spark.remote" not in spark_settings(own)


@pytest.mark.parametrize("tag", ["", "x", f"{socket.gethostname()} x y", f"{socket.gethostname()} -1 0.00"])
def test_a_run_with_a_tag_of_ours_that_was_written_by_hand_stands_in_nobodys_way(tag: str):
    """The sensor of late readings looks at every unfinished run's."""
    with dg.DagsterInstance.ephemeral() as instance:
        job = defs.resolve_job_def("fault_routing_job")
        instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags={PROCESS_TAG: tag})
        assert end_dead_runs(instance) == []
