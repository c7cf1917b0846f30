"""Ended runs as OpenLineage events: a job for each asset and each gate, beside one for the whole run.

Everything is read from the run's own events: what was made, of which versions of what, with which columns and rows.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid5

import dagster as dg

from deploy.automation.alerting import cause_of
from deploy.automation.days import span_of
from deploy.elsewhere.runs import TRY_AGAIN, Unreachable
from ml.foundation.settings import Settings

if TYPE_CHECKING:
    from openlineage.client.event_v2 import Job, OutputDataset, Run, RunEvent
    from openlineage.client.facet_v2 import DatasetFacet, RunFacet
    from openlineage.client.transport.http import HttpTransport

PRODUCER = "urn:crossfade"
NAMESPACE = "OPENLINEAGE_NAMESPACE"
_VERSION, _INPUT = "dagster/data_version", "dagster/input_data_version/"
_TOLD = ("lake_snapshot", "teacher_version", "checkpoint_sha256", "candidate", "release")
"""Metadata of an asset that its dataset carries as tags."""
_OF_ASSETS = "__"
"""How the names begin that Dagster gives to runs of assets that somebody chose."""
_LONGEST = 2000
_USER = re.compile(r"(\w+://)[^/@\s]+@")
"""Who asks, and by which password, in an address."""


class Lineage:
    """Sends the events of runs to the server that a home's settings name."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @cached_property
    def transport(self) -> "HttpTransport":
        """The client's transport, loaded when there is something to tell.

        Raises:
            Unreachable: The client is not installed.
        """
        try:
            from openlineage.client.transport.http import ApiKeyTokenProvider, HttpConfig, HttpTransport, TokenProvider
        except ImportError as error:
            told = "CROSSFADE_OPENLINEAGE_URL needs packages that are not there: make install EXTRAS=openlineage"
            raise Unreachable(f"{told} ({error})") from error
        key = os.environ.get("OPENLINEAGE_API_KEY")
        return HttpTransport(
            HttpConfig(
                url=self.settings.openlineage_url or "",
                endpoint=os.environ.get("OPENLINEAGE_ENDPOINT", "api/v1/lineage"),
                auth=ApiKeyTokenProvider({"apiKey": key}) if key else TokenProvider({}),
                # The sensor's next look tries again: this one does not wait.
                retry={"total": 1, "connect": 1, "read": 1, "allowed_methods": ["POST"]},
            )
        )

    def run(self, instance: dg.DagsterInstance, record: dg.RunRecord) -> None:
        """Send every event of one run.

        Raises:
            Unreachable: The server does not answer, or does not let us in.
        """
        transport = self.transport
        from requests import HTTPError, RequestException

        namespace = os.environ.get(NAMESPACE) or "crossfade"
        for event in events_of(instance, record, namespace):
            try:
                transport.emit(event)
            except HTTPError as error:
                status = error.response.status_code if error.response is not None else 0
                if 400 <= status < 500 and status not in TRY_AGAIN:
                    raise
                raise Unreachable(f"the OpenLineage server answers {status}") from error
            except RequestException as error:
                raise Unreachable(f"the OpenLineage server does not answer: {type(error).__name__}") from error


@dataclass
class _Work:
    """What one run did for one asset: its step, its materializations and its checks."""

    step: str | None = None
    made: list[tuple[float, dg.AssetMaterialization]] = field(default_factory=list)
    checks: list[tuple[float, dg.AssetCheckEvaluation]] = field(default_factory=list)


@dataclass
class _Told:
    """What the events of one run say."""

    assets: dict[dg.AssetKey, _Work] = field(default_factory=lambda: defaultdict(_Work))
    started: dict[str, float] = field(default_factory=dict)
    failed: dict[str, tuple[float, str]] = field(default_factory=dict)

    def read(self, instance: dg.DagsterInstance, run_id: str) -> None:
        """Read them all, once."""
        for record in instance.get_records_for_run(run_id).records:
            entry = record.event_log_entry
            if entry.dagster_event is None:
                continue
            event, kind = entry.dagster_event, entry.dagster_event.event_type
            if kind is dg.DagsterEventType.ASSET_MATERIALIZATION:
                made = event.step_materialization_data.materialization
                self.assets[made.asset_key].step = event.step_key
                self.assets[made.asset_key].made.append((entry.timestamp, made))
            elif kind is dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED:
                self.assets[event.asset_materialization_planned_data.asset_key].step = event.step_key
            elif kind is dg.DagsterEventType.ASSET_CHECK_EVALUATION:
                checked = event.asset_check_evaluation_data
                self.assets[checked.asset_key].checks.append((entry.timestamp, checked))
            elif kind is dg.DagsterEventType.STEP_START and event.step_key:
                self.started[event.step_key] = entry.timestamp
            elif kind is dg.DagsterEventType.STEP_FAILURE and event.step_key:
                self.failed[event.step_key] = (entry.timestamp, cause_of(event.step_failure_data.error))


def events_of(instance: dg.DagsterInstance, record: dg.RunRecord, namespace: str) -> "Iterator[RunEvent]":
    """Yield the events of a run: it starts, each of its assets and gates starts and ends, it ends."""
    from openlineage.client.event_v2 import Run, RunEvent, RunState
    from openlineage.client.facet_v2 import set_producer

    set_producer(PRODUCER)
    run, told = record.dagster_run, _Told()
    told.read(instance, run.run_id)
    ended = record.end_time or record.update_timestamp.timestamp()
    begun = record.start_time or ended
    whole = _job(namespace, _called(run), "RUN")
    of_run = Run(run.run_id, {**_nominal(run.tags), **_engine()})
    yield RunEvent(eventType=RunState.START, eventTime=_at(begun), run=of_run, job=whole, producer=PRODUCER)
    for key, work in told.assets.items():
        yield from _of_asset(key, work, told, record, namespace)
        yield from _of_checks(key, work, record, namespace)
    state = {dg.DagsterRunStatus.SUCCESS: RunState.COMPLETE, dg.DagsterRunStatus.FAILURE: RunState.FAIL}
    if told.failed:
        of_run = Run(run.run_id, {**(of_run.facets or {}), **_error(next(iter(told.failed.values()))[1])})
    ends = state.get(run.status, RunState.ABORT)
    yield RunEvent(eventType=ends, eventTime=_at(ended), run=of_run, job=whole, producer=PRODUCER)


def _of_asset(key: dg.AssetKey, work: _Work, told: _Told, record: dg.RunRecord, namespace: str) -> "Iterator[RunEvent]":
    """Yield that an asset was begun, and made, or that its step failed; nothing of one that was not begun."""
    from openlineage.client.event_v2 import InputDataset, OutputDataset, RunEvent, RunState
    from openlineage.client.facet_v2 import dataset_version_dataset

    step = work.step or ""
    if not work.made and step not in told.failed:
        return
    run, job = _run(record, key.to_user_string(), namespace), _job(namespace, key.to_user_string(), "ASSET")
    name = key.to_user_string()
    inputs: list[InputDataset] = []
    outputs: list[OutputDataset] = [OutputDataset(namespace, name)]
    if work.made:
        tags = work.made[-1][1].tags or {}
        for tag, version in tags.items():
            if tag.startswith(_INPUT):
                facets: dict[str, DatasetFacet] = {
                    "version": dataset_version_dataset.DatasetVersionDatasetFacet(version)
                }
                inputs.append(InputDataset(namespace, tag.removeprefix(_INPUT), facets=facets))
        outputs = [_made(namespace, name, [made for _, made in work.made])]
        ended, state = work.made[-1][0], RunState.COMPLETE
    else:
        (ended, message), state = told.failed[step], RunState.FAIL
        run.facets = {**(run.facets or {}), **_error(message)}
    begun = min(told.started.get(step, ended), ended)
    for kind, at in ((RunState.START, begun), (state, ended)):
        yield RunEvent(
            eventType=kind, eventTime=_at(at), run=run, job=job, inputs=inputs, outputs=outputs, producer=PRODUCER
        )


def _made(namespace: str, name: str, made: list[dg.AssetMaterialization]) -> "OutputDataset":
    """Return what was made: its columns, its version, the table that it is, and its rows over all partitions."""
    from openlineage.client.event_v2 import OutputDataset
    from openlineage.client.facet_v2 import (
        dataset_version_dataset,
        output_statistics_output_dataset,
        schema_dataset,
        symlinks_dataset,
        tags_dataset,
    )

    metadata, tags = made[-1].metadata, made[-1].tags or {}
    facets: dict[str, DatasetFacet] = {}
    version = _text(metadata, "release") or tags.get(_VERSION)
    if version:
        facets["version"] = dataset_version_dataset.DatasetVersionDatasetFacet(version)
    if isinstance(columns := metadata.get("dagster/column_schema"), dg.TableSchemaMetadataValue):
        fields = [
            schema_dataset.SchemaDatasetFacetFields(name=c.name, type=c.type, description=c.description)
            for c in columns.schema.columns
        ]
        facets["schema"] = schema_dataset.SchemaDatasetFacet(fields=fields)
    if table := _text(metadata, "dagster/table_name"):
        facets["symlinks"] = symlinks_dataset.SymlinksDatasetFacet(
            [symlinks_dataset.Identifier(namespace=namespace, name=table, type="TABLE")]
        )
    told = {key: text for key in _TOLD if (text := _text(metadata, key))}
    if told:
        facets["tags"] = tags_dataset.TagsDatasetFacet(
            [tags_dataset.TagsDatasetFacetFields(key=key, value=text, source="CROSSFADE") for key, text in told.items()]
        )
    counts = [one.metadata.get("dagster/partition_row_count") for one in made]
    rows = [count.value or 0 for count in counts if isinstance(count, dg.IntMetadataValue)]
    counted = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(rowCount=sum(rows))
    return OutputDataset(namespace, name, facets=facets, outputFacets={"outputStatistics": counted} if rows else {})


def _of_checks(key: dg.AssetKey, work: _Work, record: dg.RunRecord, namespace: str) -> "Iterator[RunEvent]":
    """Yield that the checks of an asset ran, and what each of them found."""
    from openlineage.client.event_v2 import InputDataset, RunEvent, RunState
    from openlineage.client.facet_v2 import data_quality_assertions_dataset as quality

    if not work.checks:
        return
    name = f"{key.to_user_string()}/checks"
    found = [
        quality.Assertion(
            assertion=check.check_name,
            success=check.passed,
            severity="error" if check.severity is dg.AssetCheckSeverity.ERROR else "warn",
            description=(check.description or "")[:_LONGEST] or None,
        )
        for _, check in work.checks
    ]
    facet = quality.DataQualityAssertionsDatasetFacet(assertions=found)
    inputs = [InputDataset(namespace, key.to_user_string(), inputFacets={"dataQualityAssertions": facet})]
    run, job = _run(record, name, namespace), _job(namespace, name, "CHECK")
    for kind, at in ((RunState.START, work.checks[0][0]), (RunState.COMPLETE, work.checks[-1][0])):
        yield RunEvent(eventType=kind, eventTime=_at(at), run=run, job=job, inputs=inputs, producer=PRODUCER)


def _run(record: dg.RunRecord, name: str, namespace: str) -> "Run":
    """Return the run of one asset within a run: its id follows from both, so that sent again it is the same."""
    from openlineage.client.event_v2 import Run
    from openlineage.client.facet_v2 import parent_run

    run = record.dagster_run
    whole = _called(run)
    parent = parent_run.ParentRunFacet(run=parent_run.Run(run.run_id), job=parent_run.Job(namespace, whole))
    return Run(str(uuid5(UUID(run.run_id), name)), {"parent": parent, **_nominal(run.tags), **_engine()})


def _job(namespace: str, name: str, kind: str) -> "Job":
    from openlineage.client.event_v2 import Job
    from openlineage.client.facet_v2 import job_type_job

    told = job_type_job.JobTypeJobFacet(processingType="BATCH", integration="DAGSTER", jobType=kind)
    return Job(namespace, name, {"jobType": told})


def _called(run: dg.DagsterRun) -> str:
    return "assets" if run.job_name.startswith(_OF_ASSETS) else run.job_name


def _nominal(tags: Mapping[str, str]) -> "dict[str, RunFacet]":
    """Return the days that a run is about."""
    from openlineage.client.facet_v2 import nominal_time_run

    try:
        span = span_of(tags)
    except ValueError:  # a partition that is no day
        return {}
    if span is None:
        return {}
    first, after = (datetime.combine(day, time(), UTC).isoformat() for day in (span[0], span[1] + timedelta(days=1)))
    return {"nominalTime": nominal_time_run.NominalTimeRunFacet(nominalStartTime=first, nominalEndTime=after)}


def _engine() -> "dict[str, RunFacet]":
    from openlineage.client.facet_v2 import processing_engine_run

    return {"processing_engine": processing_engine_run.ProcessingEngineRunFacet(version=dg.__version__, name="Dagster")}


def _error(message: str) -> "dict[str, RunFacet]":
    from openlineage.client.facet_v2 import error_message_run

    told = _USER.sub(r"\1***@", message)[:_LONGEST]
    return {"errorMessage": error_message_run.ErrorMessageRunFacet(told, programmingLanguage="PYTHON")}


def _text(metadata: Mapping[str, Any], name: str) -> str | None:
    value = getattr(metadata.get(name), "value", None)
    return None if value is None else str(value)


def _at(timestamp: float) -> str:
    return datetime.fromtimestamp(timestamp, UTC).isoformat()
