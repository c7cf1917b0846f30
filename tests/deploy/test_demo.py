"""The demo goes on after a refused promotion, and fails when a step crashed."""

import shutil
from pathlib import Path

import dagster as dg
import pytest

from assets.names import surface_key
from deploy.cli.demo_run import DemoFailed, _execute
from deploy.definitions import build_definitions
from ml.foundation.settings import PROJECT_ROOT, Settings


@pytest.fixture
def settings(built_demo: Path, tmp_path: Path) -> Settings:
    home = shutil.copytree(built_demo, tmp_path / "home")
    return Settings(home=home, surfaces_dir=PROJECT_ROOT / "tests" / "surfaces", threads=1)


def promote(settings: Settings) -> None:
    job = build_definitions(settings).resolve_implicit_global_asset_job_def()
    keys, day = [surface_key("homepage", "release")], str(settings.last_day)
    with dg.DagsterInstance.from_config(str(settings.dagster_home)) as instance:
        _execute(settings, job, instance, {}, keys, partition=day, may_refuse=True)


def test_a_refused_promotion_is_no_failure(settings: Settings) -> None:
    shutil.rmtree(settings.home / "artifacts" / "verdicts")
    promote(settings)


def test_a_promotion_that_crashes_fails_the_demo(settings: Settings) -> None:
    shutil.rmtree(settings.home / "artifacts" / "models" / "homepage" / "evaluation")
    with pytest.raises(DemoFailed, match="step homepage__release failed"):
        promote(settings)
