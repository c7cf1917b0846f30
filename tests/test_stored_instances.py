"""What a released version left on disk is read by this one.

``tests/fixtures/instance-<version>.tar.xz`` is a finished instance directory of a version: ``crossfade demo --preset
tiny`` in ``/srv/crossfade``, both candidates promoted by ``crossfade release override`` and confirmed as references,
less ``training/`` and ``spool/``. A change of a stored format brings its upgrade step and is tried on these.
"""

import shlex
import sqlite3
import tarfile
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr
from typer.testing import CliRunner

from deploy.cli.doctor import EXAMINATIONS, State, examine
from deploy.cli.main import app
from deploy.serving.engine import Engine
from deploy.serving.metrics import Metrics
from deploy.upgrade import UpgradeRefused, copy_state, pending, upgrade
from ml.evaluation.evaluate import evaluate
from ml.foundation.lake import LANDING, Lake, OldCatalog, quoted
from ml.foundation.sealed import DamagedError
from ml.foundation.settings import Settings
from ml.foundation.signing import UnusableKey
from ml.landing.late import waiting
from ml.landing.ledger import LEDGER, totals
from ml.landing.load import init_tables
from ml.operations.backup import restore
from ml.operations.trace import as_page, trace
from ml.operations.verify import verify
from ml.releases.ownership import owner_of
from ml.releases.store import ReleaseStore
from ml.stages.evaluation import read_evaluation
from ml.stages.training_set import make_training_set, read_training_set
from ml.surfaces.files import load_surfaces
from ml.teacher.contract import teacher_contract
from ml.teacher.labels import label_hashes
from tests.support.pages import KEYS, SIGN, as_shown, steps_of

FIXTURE = sorted(Path(__file__).with_name("fixtures").glob("instance-*.tar.xz"))
PARTITION = date(2026, 1, 11)
RELEASES = {"homepage": "2026-01-11-29c4cfe407c9", "radio": "2026-01-11-678f912909a9"}
EXPOSURES = 9_505
GAINED = ("list_id", "propensity", "random")
"""Columns of exposures that came after it."""


@pytest.fixture(scope="module", params=FIXTURE, ids=lambda path: path.name)
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """An instance directory that another version finished, elsewhere than where it was made."""
    return _unpacked(request.param, tmp_path_factory.mktemp("stored"))


@pytest.fixture(params=FIXTURE, ids=lambda path: path.name)
def untouched(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """The same, as nothing of this version has written to it."""
    return _unpacked(request.param, tmp_path)


def _unpacked(archive: Path, folder: Path) -> Settings:
    with tarfile.open(archive) as files:
        files.extractall(folder, filter="data")
    return Settings(home=folder / "crossfade")


def test_every_table_of_the_lake_is_read(stored: Settings) -> None:
    with Lake(stored) as lake:
        rows = {table: lake.content_hash(f"lake.{schema}.{table}")[0] for schema, table in lake.tables()}
    assert rows["exposures"] == rows["stg_exposures"] == EXPOSURES
    assert rows["examples_homepage"] + rows["examples_radio"] == rows["stg_exposures"]
    assert rows["soft_labels_homepage"] == rows["examples_homepage"]


def test_landing_goes_on_with_the_ledger_that_is_there(stored: Settings) -> None:
    """Its rows were written before rows went to other days."""
    with Lake(stored) as lake:
        before = totals(lake)
        init_tables(lake)
        assert totals(lake) == before and before["rows_loaded"] > EXPOSURES and not waiting(lake)
        rows = lake.sql("select count(*) as n, count(rows_routed) as routed from landing.ledger").to_pylist()
        assert rows[0]["n"] > 0 and rows[0]["routed"] == 0


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


def test_a_flipped_bit_in_what_examples_were_built_from_stops_the_next_training(untouched: Settings) -> None:
    """Examples that were built from a damaged file look whole; files of version 0.1 are taken as they are, once."""
    surface = load_surfaces(untouched)["homepage"]
    assert EXAMINATIONS["data files"](untouched)[0] is State.DOUBTFUL
    made = make_training_set(untouched, surface, PARTITION)
    verify(untouched)
    assert EXAMINATIONS["data files"](untouched)[0] is State.GOOD
    for table, day in (("landing.listens", made.train_days[0]), ("features.examples_homepage", made.eval_days[-1])):
        with Lake(untouched) as lake:
            [file, *_] = lake.files.named(tables=[table], days=(day, day))
        path = untouched.lake_dir / "data" / file.path
        whole = path.read_bytes()
        path.write_bytes(whole[:99] + bytes([whole[99] ^ 1]) + whole[100:])
        with pytest.raises(DamagedError, match=path.name):
            make_training_set(untouched, surface, PARTITION)
        path.unlink()
        [finding] = [found for found in examine(untouched) if found.what == "data files"]
        assert finding.state is State.BAD and path.name in finding.told and "backup" in finding.remedy
        path.write_bytes(whole)
    assert make_training_set(untouched, surface, PARTITION) == made


def _contents(settings: Settings) -> dict[str, tuple[int, str]]:
    """Return the hash of every landed table, less the columns that it gained since."""
    with Lake(settings) as lake:
        found = {}
        for name in [f"{schema}.{table}" for schema, table in lake.tables() if schema == LANDING]:
            if name != LEDGER:
                columns = ", ".join(quoted(column) for column in lake.columns(name) if column not in GAINED)
                found[name] = lake.content_hash(f"(select {columns} from lake.{name})")
        return found


def _labels(settings: Settings) -> dict[str, object]:
    contract, days = teacher_contract(settings), [PARTITION - timedelta(days=n) for n in range(1, 4)]
    with Lake(settings) as lake:
        known = contract.version, contract.contract_hash
        return {surface: label_hashes(lake, surface, *known, days) for surface in RELEASES}


def _revise(database: Path, statement: str) -> None:
    with closing(sqlite3.connect(database)) as opened, opened:
        opened.execute(statement)


def test_an_upgrade_says_what_it_will_do_does_that_once_and_can_be_taken_back(untouched: Settings) -> None:
    told = {step.what: lines for step, lines in pending(untouched)}
    gained = ["landing.ledger: column rows_routed", *(f"landing.exposures: column {name}" for name in GAINED)]
    assert not set(gained) - set(told["tables of the landing"])
    assert list(told) == ["data files", "tables of the landing", "soft labels", "artifacts", "Dagster's instance"]
    assert told["soft labels"] == [f"ml.soft_labels_{surface}: who gave a label" for surface in RELEASES]
    assert EXAMINATIONS["version"](untouched)[::2] == (State.DOUBTFUL, "crossfade upgrade")
    assert {step.what: lines for step, lines in pending(untouched)} == told, "looking changes nothing"

    copy = copy_state(untouched, untouched.home / "backups")
    before, labels = _contents(untouched), _labels(untouched)
    killed = upgrade(untouched)
    assert next(killed)[0].what == "data files"
    killed.close()
    assert [step.what for step, _ in upgrade(untouched)] == list(told)[1:]
    assert not list(pending(untouched)) and not list(upgrade(untouched))
    assert EXAMINATIONS["version"](untouched)[0] is State.GOOD
    assert {name: held for name, held in _contents(untouched).items() if name in before} == before
    assert _labels(untouched) == labels, "the labels that manifests name are the ones that are there"
    with Lake(untouched) as lake:
        [row] = lake.sql("select teacher, count(*) as n from lake.ml.soft_labels_radio group by teacher").to_pylist()
    assert (row["teacher"], row["n"] > 0) == (teacher_contract(untouched).name, True)

    [catalog] = copy.glob("catalog-*.sqlite")
    restore(untouched, catalog)
    assert [step.what for step, _ in pending(untouched)] == ["data files", "tables of the landing", "soft labels"]
    assert (copy / "dagster" / "dagster.yaml").exists() and (copy / "dagster" / "history" / "runs.db").exists()


def test_a_catalog_of_an_earlier_ducklake_is_refused_until_it_is_upgraded(untouched: Settings) -> None:
    before = _contents(untouched)
    _revise(untouched.catalog_path, "update ducklake_metadata set value = '0.4' where key = 'version'")
    with pytest.raises(OldCatalog, match=r"format 0\.4 of DuckLake, 1\.0 is wanted: run `crossfade upgrade`"):
        Lake(untouched)
    assert EXAMINATIONS["lake"](untouched)[::2] == (State.BAD, "crossfade upgrade")
    first, *others = pending(untouched)
    assert first[0].what == "catalog of the lake" and "0.4" in first[1][0]
    assert ["is looked at when the catalog is of this version"] in [lines for _, lines in others]
    steps = [step.what for step, _ in upgrade(untouched)]
    assert steps[0] == "catalog of the lake" and not list(pending(untouched))
    assert {name: held for name, held in _contents(untouched).items() if name in before} == before


def test_dagsters_tables_of_an_earlier_revision_are_brought_along(
    untouched: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    _revise(untouched.dagster_home / "history" / "runs.db", "update alembic_version set version_num = '7e2f3204cf8e'")
    (untouched.dagster_home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n", encoding="utf-8")
    told = {step.what: lines for step, lines in pending(untouched)}["Dagster's instance"]
    assert told[0] == "dagster.yaml is another" and told[1].startswith("tables of runs are of revision 7e2f3204cf8e")
    monkeypatch.setenv("CROSSFADE_HOME", str(untouched.home))
    said = [
        CliRunner().invoke(app, words).output
        for words in (as_shown("crossfade upgrade --dry-run"), as_shown("crossfade upgrade"))
    ]
    assert "Dagster's instance: dagster.yaml is another" in said[0] and "nothing was changed" in said[0]
    assert "done  Dagster's instance: dagster.yaml is another" in said[1]
    assert not list(pending(untouched))


def test_a_catalog_that_has_tools_of_its_own_is_upgraded_only_when_somebody_says_that_it_was_copied(
    untouched: Settings,
) -> None:
    elsewhere = untouched.model_copy(update={"dagster_url": SecretStr("postgresql://nobody@127.0.0.1:9/none")})
    with pytest.raises(UpgradeRefused, match="pg_dump, then say --backed-up"):
        copy_state(elsewhere, untouched.home / "backups")
    with pytest.raises(UpgradeRefused, match=r"catalog\.sqlite is not there; `crossfade init` makes"):
        list(pending(Settings(home=untouched.home / "none")))


def test_champions_serve(stored: Settings) -> None:
    engine = Engine(stored, Metrics())
    engine.refresh()
    assert {name: engine.served[name].label["release"] for name in RELEASES} == RELEASES
    assert engine.served["homepage"].label["feature_day"] == PARTITION.isoformat()


def test_the_next_entry_of_a_log_carries_the_hash_of_those_before(stored: Settings) -> None:
    store = ReleaseStore.of(stored)
    entry = store.confirm("homepage", by="test", reason="still good")
    assert (entry.number, bool(entry.predecessor)) == (3, True)
    first = stored.home / "artifacts/champion/homepage/000001.json"
    whole = first.read_bytes()
    first.write_bytes(whole.replace(b'"override"', b'"rollback"'))
    with pytest.raises(DamagedError, match="000001"):
        store.history("homepage")
    first.write_bytes(whole)
    with Lake(stored) as lake:
        owner = owner_of(store.files)
        assert owner is not None and owner.lake == lake.id()


def test_the_steps_of_the_page_for_the_first_a_lost_and_a_leaked_key(
    untouched: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What version 0.1 made is unsigned; each step of the page is done as it stands there."""
    monkeypatch.setenv("CROSSFADE_HOME", str(untouched.home))
    monkeypatch.setenv("USER", "ann")

    def crossfade(*words: str) -> str:
        done = CliRunner().invoke(app, list(words))
        assert done.exit_code == 0, (words, done.exception)
        return " ".join(done.output.split())

    def follow(title: str, *, until: str | None = None, since: str | None = None) -> None:
        for command, *words in map(shlex.split, steps_of(SIGN, title)):
            words = [word.replace("~", str(tmp_path)) for word in words]
            line = " ".join(words)
            if since is not None:
                since = None if since in line else since
            if until is not None and until in line:
                return
            if since is None and command == "export":
                name, _, value = words[0].partition("=")
                monkeypatch.setenv(name, value)
            elif since is None and command == "rm":
                Path(words[0]).unlink()
            elif since is None:
                assert command == "crossfade"
                crossfade(*words)

    def served() -> dict[str, str]:
        engine = Engine(Settings(), Metrics())
        engine.refresh()
        return {name: found.label["release"] for name, found in engine.served.items()}

    assert served() == RELEASES and "signature unsigned" in crossfade("release", "show", "homepage")
    assert "no key is set" in EXAMINATIONS["signatures"](Settings())[1] and "no key is set" in crossfade("verify")
    begin, lost, leaked = KEYS
    follow(begin, until="release sign")
    assert served() == {} and "signature unsigned" in crossfade("release", "show", "homepage")
    [finding] = [found for found in examine(Settings()) if found.what == "signatures"]
    assert finding.state is State.BAD and "release sign homepage" in finding.told and "sign.md" in finding.remedy
    follow(begin, since="release sign")
    assert served() == RELEASES and "signed by team-2026" in crossfade("release", "show", "homepage")

    follow(lost)
    crossfade("release", "confirm", "homepage", "--reason", "looked at")
    assert served() == RELEASES and "signed by team-2027" in crossfade("release", "list", "homepage")

    follow(leaked, until="release sign")
    assert served()["radio"] == RELEASES["radio"] and "homepage" not in served()
    monkeypatch.setenv("CROSSFADE_SIGNING_KEY_FILE", str(tmp_path / "keys/team-2027.pem"))
    with pytest.raises(UnusableKey, match="not among those of"):
        ReleaseStore.of(Settings()).confirm("radio", by="Eve", reason="mine")
    monkeypatch.setenv("CROSSFADE_SIGNING_KEY_FILE", str(tmp_path / "keys/team-2027b.pem"))
    follow(leaked, since="release sign")
    assert served() == RELEASES and EXAMINATIONS["signatures"](Settings())[0] is State.GOOD
