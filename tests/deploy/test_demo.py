"""The demo goes on after a refused promotion, and fails when a step crashed."""

import multiprocessing
import shutil
from pathlib import Path

import pytest

from assets.names import surface_key
from deploy.cli.demo_graph import DemoFailed, Graph, Part, beside, both
from ml.foundation.settings import PROJECT_ROOT, Settings


@pytest.fixture
def settings(built_demo: Path, tmp_path: Path) -> Settings:
    home = shutil.copytree(built_demo, tmp_path / "home")
    return Settings(home=home, surfaces_dir=PROJECT_ROOT / "tests" / "surfaces", threads=1)


def promote(settings: Settings) -> None:
    release = Part([surface_key("homepage", "release")], settings.last_day, may_refuse=True)
    Graph(settings, alone=True).run(release)


def test_a_refused_promotion_is_no_failure(settings: Settings) -> None:
    shutil.rmtree(settings.home / "artifacts" / "verdicts")
    promote(settings)


def test_a_promotion_that_crashes_fails_the_demo(settings: Settings) -> None:
    shutil.rmtree(settings.home / "artifacts" / "models" / "homepage" / "evaluation")
    with pytest.raises(DemoFailed, match="step homepage__release failed"):
        promote(settings)


def test_what_fails_or_ends_in_the_second_process_fails_the_demo(settings: Settings) -> None:
    shutil.rmtree(settings.home / "artifacts" / "models" / "homepage" / "evaluation")
    two = settings.model_copy(update={"threads": 2})
    part = Part([surface_key("homepage", "release")], settings.last_day, may_refuse=True)
    with beside(two) as other:
        graph = Graph(two, alone=False)
        with pytest.raises(DemoFailed, match="step homepage__release failed"):
            both(graph, other, [], [part])
        [process] = [child for child in multiprocessing.active_children() if child.name == "crossfade-demo"]
        process.kill()
        with pytest.raises(DemoFailed, match="second process was ended"):
            both(graph, other, [], [part])
