"""What a released version left on disk is read by this one.

``tests/fixtures/instance-<version>.tar.xz`` is a finished instance directory of a version: ``crossfade demo --preset
tiny`` in ``/srv/crossfade``, both candidates promoted by ``crossfade release override`` and confirmed as references,
less ``training/`` and ``spool/``. A change of a stored format brings its upgrade step and is tried on these.
"""

import tarfile
from datetime import date
from pathlib import Path

import pytest

from deploy.serving.engine import Engine
from deploy.serving.metrics import Metrics
from ml.evaluation.evaluate import evaluate
from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.operations.trace import as_page, trace
from ml.releases.store import ReleaseStore
from ml.stages.evaluation import read_evaluation
from ml.stages.training_set import read_training_set
from ml.surfaces.spec import load_surfaces
from ml.teacher.contract import teacher_contract

FIXTURES = Path(__file__).with_name("fixtures")
PARTITION = date(2026, 1, 11)
RELEASES = {"homepage": "2026-01-11-29c4cfe407c9", "radio": "2026-01-11-678f912909a9"}
EXPOSURES = 9_505


@pytest.fixture(scope="module", params=sorted(FIXTURES.glob("instance-*.tar.xz")), ids=lambda path: path.name)
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """An instance directory that another version finished, elsewhere than where it was made."""
    folder = tmp_path_factory.mktemp("stored")
    with tarfile.open(request.param) as archive:
        archive.extractall(folder, filter="data")
    return Settings(home=folder / "crossfade")


def test_every_table_of_the_lake_is_read(stored: Settings) -> None:
    with Lake(stored) as lake:
        rows = {table: lake.content_hash(f"lake.{schema}.{table}")[0] for schema, table in lake.tables()}
    assert rows["exposures"] == rows["stg_exposures"] == EXPOSURES
    assert rows["examples_homepage"] + rows["examples_radio"] == rows["stg_exposures"]
    assert rows["soft_labels_homepage"] == rows["examples_homepage"]


@pytest.mark.parametrize("surface", RELEASES)
def test_releases_and_their_causes_are_read(stored: Settings, surface: str) -> None:
    store = ReleaseStore(stored.artifacts_dir)
    champion = store.champion(surface)
    assert champion is not None
    assert champion.release.id == store.reference(surface) == RELEASES[surface]
    assert champion.release.verdict.decision == "fail"
    assert [move.action for move in store.history(surface)] == ["override", "reference"]
    page = as_page(trace(stored, champion.release))
    assert str(champion.release.manifest.snapshot) in page


@pytest.mark.parametrize("surface", RELEASES)
def test_recorded_rows_give_the_recorded_figures(stored: Settings, surface: str) -> None:
    spec = load_surfaces(stored)[surface]
    recorded, rows = read_evaluation(stored, spec, PARTITION), read_training_set(stored, spec, PARTITION)
    with Lake(stored) as lake:
        again = evaluate(
            lake,
            spec,
            PARTITION,
            teacher_outputs={output.task: output.kind for output in teacher_contract(stored).outputs},
            seed=stored.seed,
            snapshot=rows.snapshot,
        )
    for task in spec.tasks:
        for model in ("control", "student"):
            assert again.metric(model, task) == pytest.approx(recorded.metric(model, task), abs=1e-12)


def test_champions_serve(stored: Settings) -> None:
    engine = Engine(stored, Metrics())
    engine.refresh()
    assert {name: engine.served[name].label["release"] for name in RELEASES} == RELEASES
    assert engine.served["homepage"].label["feature_day"] == PARTITION.isoformat()
