"""A day on which nothing happened passes as empty, from its `_SUCCESS` alone to releases of the windows around it."""

import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from assets.names import STUDY_GROUP, surface_key
from deploy.automation.days import range_tags
from deploy.automation.jobs import release_chain
from deploy.definitions import build_definitions
from ml.foundation.lake import Lake
from ml.foundation.settings import PROJECT_ROOT, Settings
from ml.releases.store import ReleaseStore
from ml.stages.training_set import read_training_set
from ml.surfaces.files import load_surfaces

FIRST, LAST = date(2026, 1, 1), date(2026, 1, 11)
TRAINING, EVALUATION = date(2026, 1, 6), date(2026, 1, 9)
"""Days on which nothing happened: one that is trained on, one that is evaluated on."""
NO_RADIO = date(2026, 1, 7)
"""A day on which only the homepage was shown."""

EXAMPLES_CHECK, SOFT_LABELS_CHECK = "examples_are_sound", "soft_labels_are_sound"


def folder(settings: Settings, table: str, day: date) -> Path:
    assert settings.landing_dir is not None
    return settings.landing_dir / table / f"day={day}"


def empty(settings: Settings) -> None:
    for table in ("exposures", "listens", "items", "users"):
        for day in (TRAINING, EVALUATION):
            for file in folder(settings, table, day).glob("part*"):
                file.unlink()
            assert [file.name for file in folder(settings, table, day).iterdir()] == ["_SUCCESS"]
    for file in folder(settings, "exposures", NO_RADIO).glob("*.parquet"):
        rows = pl.read_parquet(file)
        rows.filter(pl.col("surface") != "radio").write_parquet(file)


@pytest.fixture(scope="module")
def settings(tiny_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A home whose ranges are built in several parts, and whose homepage has no popularity to beat by its discoveries.

    Those of one evaluation day are too few: which of the two orders them better is chance.
    """
    surfaces = tmp_path_factory.mktemp("surfaces")
    for name, more in {"homepage": "tasks: {discovery: {baseline: null}}\n", "radio": ""}.items():
        text = f"extends: {PROJECT_ROOT}/tests/surfaces/{name}.yaml\n{more}"
        (surfaces / f"{name}.yaml").write_text(text, encoding="utf-8")
    return Settings(home=tiny_demo, surfaces_dir=surfaces, threads=1, build_rows=8_000)


@pytest.fixture(scope="module")
def run(settings: Settings) -> Callable[..., dg.ExecuteInProcessResult]:
    """A function that runs assets of the home, some of whose days are empty."""
    empty(settings)
    shutil.rmtree(settings.home / "artifacts")  # its champion is of the same day
    job = build_definitions(settings).resolve_implicit_global_asset_job_def()

    def execute(keys: list[dg.AssetKey], **days: Any) -> dg.ExecuteInProcessResult:
        with dg.DagsterInstance.from_config(str(settings.dagster_home)) as instance:
            return job.execute_in_process(instance=instance, asset_selection=keys, raise_on_error=False, **days)

    return execute


def test_empty_days_pass_through_the_graph_and_releases_are_made_of_the_windows_around_them(
    run: Callable[..., dg.ExecuteInProcessResult], settings: Settings
) -> None:
    surfaces = load_surfaces(settings)
    graph = build_definitions(settings).resolve_asset_graph()
    others = graph.asset_keys_for_group(STUDY_GROUP) | {surface_key(name, "experiment") for name in surfaces}
    others |= {key for surface in surfaces.values() for key in release_chain(surface)}
    daily = run(sorted(graph.materializable_asset_keys - others), tags=range_tags(FIRST, LAST))
    assert failures(daily) == []
    told = {(e.asset_key.path[0], e.check_name): e for e in daily.get_asset_check_evaluations()}
    for name, days in (("homepage", [TRAINING, EVALUATION]), ("radio", [TRAINING, NO_RADIO, EVALUATION])):
        for check in (EXAMPLES_CHECK, SOFT_LABELS_CHECK):
            evaluation = told[name, check]
            assert evaluation.passed, evaluation.description
            assert f"nothing was shown on {', '.join(map(str, days))}" in str(evaluation.metadata["checks"].value)
        with Lake(settings) as lake:
            rows = lake.day_versions(f"features.examples_{name}", FIRST, LAST)
            labels = lake.day_versions(f"ml.soft_labels_{name}", FIRST, LAST)
        assert set(rows) == set(labels) == set(settings.days(FIRST, LAST)) - set(days)

    for name, surface in surfaces.items():
        released = run(release_chain(surface), partition_key=str(LAST))
        assert failures(released) == []
        made = read_training_set(settings, surface, LAST)
        assert made.rows[TRAINING] == made.rows[EVALUATION] == 0 and TRAINING in made.train_days
        assert ReleaseStore(settings.artifacts_dir).champion(name) is not None


def test_a_run_of_an_empty_day_alone_passes_its_checks(run: Callable[..., dg.ExecuteInProcessResult]) -> None:
    keys = [surface_key("radio", name) for name in ("examples", "teacher_inputs", "soft_labels")]
    alone = run(keys, partition_key=str(NO_RADIO))
    assert failures(alone) == []
    assert {e.check_name for e in alone.get_asset_check_evaluations() if e.passed} >= {EXAMPLES_CHECK}


def failures(result: dg.ExecuteInProcessResult) -> list[str]:
    return [f"{e.step_key}: {e.event_specific_data}" for e in result.all_events if e.event_type_value == "STEP_FAILURE"]
