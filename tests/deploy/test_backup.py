"""The catalog is copied while it is written to, and put back only if everything that it names is there."""

import sqlite3
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from ml.foundation.lake import ALIAS, Lake
from ml.foundation.settings import Settings
from ml.landing.changes import changed_days
from ml.operations.backup import BackupError, back_up, restore
from ml.operations.housekeeping import tidy
from ml.releases.store import ReleaseStore
from tests.support.commands import ROOT, home_environment, run_crossfade
from tests.support.pages import as_shown

TABLE = "features.examples_homepage"
DAY = date(2026, 1, 5)


@pytest.fixture(scope="module")
def settings(tiny_demo: Path) -> Settings:
    return Settings(home=tiny_demo, surfaces_dir=ROOT / "tests" / "surfaces", threads=1)


def content(settings: Settings, snapshot: int | None = None) -> tuple[int, str]:
    with Lake(settings, snapshot=snapshot) as lake:
        return lake.content_hash(f"{ALIAS}.{TABLE}")


def empty(settings: Settings, day: date) -> None:
    with Lake(settings) as lake:
        nothing = lake.sql(f"select * from {ALIAS}.{TABLE} limit 0")
        lake.replace_days(TABLE, nothing, [day])


def test_a_restored_catalog_is_the_lake_as_it_was_and_releases_still_find_their_rows(
    settings: Settings, tmp_path: Path
) -> None:
    before = content(settings)
    words = as_shown("crossfade backup /mnt/backup/crossfade", {"/mnt/backup/crossfade": str(tmp_path)})
    printed = run_crossfade(settings.home, *words)
    [copy] = tmp_path.glob("catalog-*.sqlite")
    assert str(copy) in printed.replace("\n", "")
    empty(settings, DAY)
    lost = content(settings)
    assert lost != before
    of_page = "/mnt/backup/crossfade/catalog-20260201T030000Z.sqlite"
    words = as_shown("crossfade restore /mnt/backup/crossfade/catalog-20260201T030000Z.sqlite", {of_page: str(copy)})
    run_crossfade(settings.home, *words)
    assert content(settings) == before
    [aside] = settings.lake_dir.glob("catalog-replaced-*.sqlite")
    champion = ReleaseStore(settings.artifacts_dir).champion("homepage")
    assert champion and content(settings, champion.release.manifest.snapshot)[0]
    assert not changed_days(settings).ready
    restore(settings, aside)
    assert content(settings) == lost, "what was replaced can be put back"
    restore(settings, copy)
    assert content(settings) == before


def test_a_copy_that_was_taken_while_somebody_writes_is_whole(settings: Settings, tmp_path: Path) -> None:
    code = (
        "import sys; from datetime import date; from ml.foundation.lake import Lake\n"
        "from ml.foundation.settings import Settings\n"
        "with Lake(Settings()) as lake:\n"
        f"    rows = lake.sql('select * from lake.{TABLE} where day = ?', [date(2026, 1, 6)])\n"
        "    print('go', flush=True)\n"
        f"    while True: lake.replace_days('{TABLE}', rows, [date(2026, 1, 6)])\n"
    )
    command = [sys.executable, "-c", code]
    before = content(settings)
    with subprocess.Popen(command, env=home_environment(settings.home), stdout=subprocess.PIPE) as writer:
        assert writer.stdout and writer.stdout.readline() == b"go\n"
        start = datetime(2026, 3, 1, tzinfo=UTC)
        copies = [back_up(settings, tmp_path, now=start + timedelta(seconds=n)) for n in range(8)]
        writer.kill()
    for copy in copies:
        restore(settings, copy)
        assert content(settings) == before


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda copy: copy.write_bytes(b"no database at all, but long enough to be looked at" * 50), "is no catalog"),
        (lambda copy: copy.write_bytes(copy.read_bytes()[: len(copy.read_bytes()) // 2]), "is no (whole )?catalog"),
        (lambda copy: _new_database(copy), "is no catalog"),
        (lambda copy: copy.unlink(), "is no catalog"),
    ],
    ids=["other_bytes", "half", "another_database", "absent"],
)
def test_a_damaged_copy_is_refused_and_the_present_catalog_stays(
    settings: Settings, tmp_path: Path, spoil, told: str
) -> None:
    copy, before = back_up(settings, tmp_path), content(settings)
    spoil(copy)
    with pytest.raises(BackupError, match=told):
        restore(settings, copy)
    assert content(settings) == before and not (settings.home / ".restoring").exists()


def _new_database(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as database:
        database.execute("create table other (a int)")
    database.close()


def test_a_copy_whose_data_files_were_cleaned_away_is_refused_and_says_which(
    settings: Settings, tmp_path: Path
) -> None:
    copy = back_up(settings, tmp_path)
    with Lake(settings) as lake:
        rows = lake.sql(f"select * from {ALIAS}.{TABLE} where day = ?", [DAY])
        lake.replace_days(TABLE, rows, [DAY])
    store = ReleaseStore(settings.artifacts_dir)
    for surface in store.surfaces():  # no release names the files any more
        for release in store.releases(surface):
            store.files.remove_folder(f"releases/{surface}/{release}")
    tidy(settings.model_copy(update={"keep_snapshots_days": 0.0}), grace=timedelta(0))
    before = content(settings)
    with pytest.raises(BackupError, match=r"data files that are gone, such as .*\.parquet"):
        restore(settings, copy)
    assert content(settings) == before


def test_a_postgres_catalog_is_left_to_its_own_tools(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, catalog_url="postgresql://somebody@nowhere/lake")  # pyright: ignore
    with pytest.raises(BackupError, match="pg_dump"):
        back_up(settings, tmp_path)
