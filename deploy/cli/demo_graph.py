"""The demo's graph, run in parts: in this process, and beside it in a second one where there are cores for two."""

import multiprocessing as mp
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from multiprocessing.connection import Connection

import dagster as dg
from threadpoolctl import threadpool_limits

from assets.names import STUDY_GROUP, surface_key
from deploy.automation.days import range_tags
from deploy.automation.jobs import release_chain
from deploy.cli.steps import TerminalProgress, quiet, terminal_logger
from deploy.definitions import build_definitions
from ml.foundation.settings import Settings
from ml.releases.refusals import PromotionRefused
from ml.surfaces.files import load_surfaces

STAGES = {
    "landing": "landing",
    "base_tables": "features",
    "ranking_tables": "features",
    "features__serving_snapshot": "features",
    "teacher_training__demo_teacher": "teacher",
    "teacher": "teacher",
    "soft_labels": "soft_labels",
    "unshown_labels": "soft_labels",
    "training_set": "students",
    "control": "students",
    "student": "students",
    "evaluation": "evaluation",
    "onnx": "onnx",
    "release": "release",
}


REFUSALS = {"DagsterAssetCheckFailedError", PromotionRefused.__name__}
"""What a step raises when a blocking check failed, and when a promotion was refused."""

Seconds = dict[str, float]
"""Seconds of each stage; what runs side by side counts twice."""


class DemoFailed(RuntimeError):
    """The graph did not run to its end; the message names the step."""


@dataclass(frozen=True)
class Part:
    """Assets that run in one go.

    Attributes:
        keys: The assets, with their checks.
        partition: Their one day; without it they run over every day of the home.
        may_refuse: Whether a refused promotion is an outcome, and no failure.
    """

    keys: Collection[dg.AssetKey]
    partition: date | None = None
    may_refuse: bool = False


class Graph:
    """The graph of a home as one process runs it.

    Args:
        settings: The home.
        alone: Whether no other process runs parts, and draws on the terminal.
    """

    def __init__(self, settings: Settings, *, alone: bool) -> None:
        self.settings, self.alone = settings, alone
        progress = TerminalProgress(bars=alone)
        self.definitions = build_definitions(settings, progress=progress, loggers={"console": terminal_logger})
        self.job = self.definitions.resolve_implicit_global_asset_job_def()

    def run(self, *parts: Part) -> Seconds:
        """Run parts, one after another; one without assets is none.

        Raises:
            DemoFailed: A step failed.
        """
        with dg.DagsterInstance.from_config(str(self.settings.dagster_home)) as instance:
            return added(*(self._run(part, instance) for part in parts if part.keys))

    def _run(self, part: Part, instance: dg.DagsterInstance) -> Seconds:
        settings, seconds, crashed = self.settings, Seconds(), list[str]()
        assert settings.last_day is not None
        # Two processes whose products of matrices each take every core wait for each other.
        with quiet(settings), threadpool_limits(None if self.alone else 1):
            result = self.job.execute_in_process(
                instance=instance,
                asset_selection=sorted(part.keys),
                partition_key=part.partition.isoformat() if part.partition else None,
                tags=None if part.partition else range_tags(settings.first_day, settings.last_day),
                run_config={"loggers": {"console": {}}},
                raise_on_error=False,
            )
        for event in result.all_events:
            step = event.step_key or "?"
            if event.event_type_value == "STEP_SUCCESS":
                stage = STAGES.get(step) or STAGES.get(step.split("__")[-1], "checks")
                took = event.event_specific_data.duration_ms / 1000  # type: ignore[union-attr]
                seconds[stage] = seconds.get(stage, 0.0) + took
            elif event.event_type_value == "STEP_FAILURE" and not (part.may_refuse and refused(event)):
                crashed.append(step)
        if crashed or not (result.success or part.may_refuse):
            raise DemoFailed(f"step {', '.join(crashed)} failed; its log is in the Dagster UI (`make ui`)")
        return seconds


def refused(failure: dg.DagsterEvent) -> bool:
    """Tell whether a step failed because the gate or the promotion said no; whatever else fails it is a crash."""
    error = failure.step_failure_data.error
    raised = {found.cls_name for found in (error, error and error.cause) if found}
    return bool(raised & REFUSALS)


def run_graph(settings: Settings) -> Seconds:
    """Run everything that a home has, landing to releases.

    A core that would wait is used where it can be: features are built while the teacher is trained, and of two surfaces
    each is trained and judged in a process of its own. Training itself has one thread, so that its bytes are the same
    on every machine.

    Raises:
        DemoFailed: A step failed; a refused promotion is no failure.
    """
    with beside(settings) as other:
        graph = Graph(settings, alone=other is None)
        landing, first, teachers, others, last = _days(graph)
        chains = [release_chain(surface) for surface in load_surfaces(settings).values()]
        # One after another: which snapshot of the lake a training set names is no matter of who was faster.
        rows = [Part(keys[:1], settings.last_day) for keys in chains]
        rest = [Part(keys[1:], settings.last_day, may_refuse=True) for keys in chains]
        return added(
            graph.run(Part(landing), Part(first)),
            both(graph, other, [Part(others)], [Part(teachers)]),
            graph.run(Part(last), *rows),
            both(graph, other, rest[::2], rest[1::2]),
        )


def added(*parts: Seconds) -> Seconds:
    """Return the seconds of parts, stage by stage."""
    return {stage: sum(part.get(stage, 0.0) for part in parts) for stage in {stage for part in parts for stage in part}}


def _days(graph: Graph) -> list[set[dg.AssetKey]]:
    """Return the assets of days in five parts.

    Returns:
        Landing; what the teacher learns from; the teacher; what waits for none; what does.
    """
    known, surfaces = graph.definitions.resolve_asset_graph(), load_surfaces(graph.settings)
    evidence = known.asset_keys_for_group(STUDY_GROUP) | {surface_key(name, "experiment") for name in surfaces}
    releases = {key for surface in surfaces.values() for key in release_chain(surface)}
    every = set(known.materializable_asset_keys - evidence - releases)
    landing = every & known.asset_keys_for_group("landing")
    teachers = every & known.asset_keys_for_group("teacher")
    above = {key for teacher in teachers for key in known.get_ancestor_asset_keys(teacher)}
    first = (every & above) - landing - teachers
    last = {key for key in every - landing - first - teachers if teachers & known.get_ancestor_asset_keys(key)}
    return [landing, first, teachers, every - landing - first - teachers - last, last]


def both(graph: Graph, other: Connection | None, ours: Sequence[Part], theirs: Sequence[Part]) -> Seconds:
    """Run parts here and others beside them; without a second process, one after another."""
    if other is None or not theirs:
        return graph.run(*theirs, *ours)
    with _heard():
        other.send((graph.settings, theirs))
    seconds = graph.run(*ours)
    with _heard():
        told = other.recv()
    if isinstance(told, DemoFailed):
        raise told
    return added(seconds, told)


@contextmanager
def _heard() -> Iterator[None]:
    try:
        yield
    except (EOFError, ConnectionError) as error:
        raise DemoFailed("the demo's second process was ended; its log is in the Dagster UI (`make ui`)") from error


@contextmanager
def beside(settings: Settings) -> Iterator[Connection | None]:
    """Yield the end of a pipe to a process that runs parts; None where one thread is all that there is."""
    if settings.threads < 2:
        yield None
        return
    context = mp.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run_parts, args=(theirs,), name="crossfade-demo")
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        process.join()


def _run_parts(parts: Connection) -> None:
    """Run what the pipe brings until its other end closes, by its owner's will or its death."""
    graph: Graph | None = None
    while True:
        try:
            settings, asked = parts.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            graph = graph or Graph(settings, alone=False)
            parts.send(graph.run(*asked))
        except DemoFailed as failed:
            parts.send(failed)
        except BrokenPipeError:
            return
