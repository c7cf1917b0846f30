"""A forgotten person is in no landing file, table, past state or served feature, whenever the command is killed."""

import gzip
import json
import os
import random
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from deploy.cli.main import app
from ml.foundation.ids import id63
from ml.foundation.lake import ALIAS, Lake
from ml.foundation.settings import Settings
from ml.inference.snapshot import FeatureSnapshot, current_snapshot
from ml.landing.changes import changed_days
from ml.landing.ledger import totals
from ml.operations.backup import back_up, replaced_catalogs, restore
from ml.operations.development import FOLDER
from ml.operations.forget import forget
from ml.releases.store import ReleaseStore
from tests.support.commands import ROOT, home_environment
from tests.support.pages import as_shown

SEED = 20260102


@pytest.fixture(scope="module")
def settings(tiny_demo: Path) -> Settings:
    return Settings(home=tiny_demo, surfaces_dir=ROOT / "tests" / "surfaces", threads=1)


def users(settings: Settings) -> list[str]:
    """Users with a linked account who are in the training rows of the homepage, most active first."""
    champion = ReleaseStore(settings.artifacts_dir).champion("homepage")
    assert champion
    with Lake(settings) as lake:
        query = f"""
            select e.user_id from {ALIAS}.landing.exposures as e semi join (
                select user_id from {ALIAS}.landing.users where source_user_id is not null
            ) as u using (user_id)
            where surface = 'homepage' and list_contains(?::date[], day) group by 1 order by count(*) desc, 1"""
        return [u for (u,) in lake.connection.execute(query, [list(champion.release.manifest.train_days)]).fetchall()]


def ids(settings: Settings, user: str) -> dict[str, set[str]]:
    with Lake(settings) as lake:

        def of(column: str, table: str) -> set[str]:
            query = f"select distinct {column} from {ALIAS}.landing.{table} where user_id = ? and {column} is not null"
            return {value for (value,) in lake.connection.execute(query, [user]).fetchall()}

        return {
            "user_id": {user},
            "source_user_id": of("source_user_id", "users"),
            "exposure_id": of("exposure_id", "exposures"),
        }


def rows_of(settings: Settings, named: dict[str, set[str]]) -> dict[str, int]:
    """Rows of every table that name somebody, by id or hash."""
    found = {}
    with Lake(settings) as lake:
        query = """
            select table_schema || '.' || table_name, column_name, data_type from information_schema.columns
            where table_catalog = ?"""
        for table, column, kind in lake.connection.execute(query, [ALIAS]).fetchall():
            if column in named:
                values: list[Any] = [id63(v) if kind == "BIGINT" else v for v in named[column]]
                count = f"select count(*) from {ALIAS}.{table} where list_contains(?, {column})"
                found[f"{table}.{column}"] = lake.connection.execute(count, [values]).fetchall()[0][0]
    return {name: n for name, n in found.items() if n}


def planted(settings: Settings, user: str, folder: Path) -> list[Path]:
    """Put the person where no step of the landing looks, and return the places that a call can only name."""
    landing = settings.landing_dir
    assert landing
    old = landing / "exposures" / "day=2020-02-02" / "old.parquet"  # before the first day of the settings
    old.parent.mkdir()
    [today, *_] = sorted((landing / "exposures").glob("day=2026-*/*.parquet"))
    row_of_old = pl.read_parquet(today, hive_partitioning=False).head(1)
    row_of_old.with_columns(user_id=pl.lit(user), exposure_id=pl.lit("of-old")).write_parquet(old)
    row = json.dumps({"who": user}) + "\n"
    plain, packed = landing / ".aside" / "rows.jsonl", landing / "no_table" / "rows.csv.gz"
    plain.parent.mkdir()
    packed.parent.mkdir()
    plain.write_text(row, encoding="utf-8")
    packed.write_bytes(gzip.compress(f"who\n{user}\n".encode()))
    (settings.home / FOLDER / "lake").mkdir(parents=True)
    (settings.home / FOLDER / "lake" / "rows.jsonl").write_text(row, encoding="utf-8")
    log = settings.home / "logs" / "server.log"
    log.parent.mkdir(exist_ok=True)
    log.write_text(f"a request of {id63(user)} failed\n", encoding="utf-8")
    restore(settings, back_up(settings, folder))
    assert replaced_catalogs(settings)
    return [plain, packed, log]


def holders(root: Path, user: str) -> set[Path]:
    """Files whose raw bytes have the id as a word, or its hash as a number, in one of its forms."""
    number = id63(user)
    word = re.compile(rb"(?<![\w-])%s(?![\w-])" % user.encode())
    forms = (struct.pack("<q", number), struct.pack(">q", number), str(number).encode())
    files = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    return {path for path, raw in files.items() if word.search(raw) or any(form in raw for form in forms)}


def others(settings: Settings, user: str) -> tuple[int, str]:
    with Lake(settings) as lake:
        relation = f"(select * from {ALIAS}.features.examples_homepage where user_id <> ?)"
        return lake.content_hash(relation, [id63(user)])


def assert_gone(settings: Settings, named: dict[str, set[str]]) -> None:
    assert not rows_of(settings, named)
    assert settings.landing_dir
    for path in settings.landing_dir.rglob("*.parquet"):
        frame = pl.read_parquet(path, hive_partitioning=False)
        for column in named.keys() & set(frame.columns):
            assert not set(frame[column].to_list()) & named[column], path
    with Lake(settings) as lake:
        assert lake.sql(f"select count(*) as n from {ALIAS}.snapshots()")["n"][0].as_py() == 1
        listed = {Path(name).name for name in _files(lake)}
    on_disk = {p.name for p in (settings.lake_dir / "data").rglob("*.parquet")}
    assert on_disk == listed
    snapshot = current_snapshot(settings)
    assert snapshot and [p for p in snapshot.parent.iterdir() if p.is_dir()] == [snapshot]
    served = FeatureSnapshot.load(snapshot).tables["feat_user"]["user_id"].to_pylist()
    assert served and not {id63(user) for user in named["user_id"]} & set(served)


def _files(lake: Lake) -> list[str]:
    tables = lake.connection.execute(
        "select table_schema, table_name from information_schema.tables "
        "where table_catalog = ? and table_type = 'BASE TABLE'",
        [ALIAS],
    ).fetchall()
    query = f"select data_file, delete_file from ducklake_list_files('{ALIAS}', ?, schema => ?)"
    rows = [row for schema, table in tables for row in lake.connection.execute(query, [table, schema]).fetchall()]
    return [file for row in rows for file in row if file]


def test_a_person_is_gone_everywhere_and_nobody_else_is_touched(settings: Settings, tmp_path: Path) -> None:
    user = next(user for user in users(settings) if len(user) >= 4)  # a shorter one is in any file by chance
    left = planted(settings, user, tmp_path)
    named, rest = ids(settings, user), others(settings, user)
    before = rows_of(settings, named)
    with Lake(settings) as lake:
        counts, size = totals(lake), sum(file.bytes for file in lake.files.named())
    told = forget(settings, user, dry_run=True)
    assert rows_of(settings, named) == before and others(settings, user) == rest
    assert forget(settings, user).model_dump(exclude={"at"}) == told.model_dump(exclude={"at"})
    assert told.known and told.files and told.rows["landing.exposures"] == len(named["exposure_id"])
    champion = ReleaseStore(settings.artifacts_dir).champion("homepage")
    assert champion and champion.release.id in told.releases["homepage"]
    assert_gone(settings, named)
    assert others(settings, user) == rest
    assert not changed_days(settings).ready
    with Lake(settings) as lake:
        after = totals(lake)
        assert sum(file.bytes for file in lake.files.named(every=True)) < size, "forgetting makes the lake smaller"
    landed = sum(n for table, n in told.rows.items() if table.startswith("landing.") and "quarantine" not in table)
    assert after["rows_in"] == after["rows_loaded"] + after["rows_quarantined"]
    assert counts["rows_loaded"] - after["rows_loaded"] == landed
    noted = (settings.reports_dir / "forgotten.jsonl").read_text(encoding="utf-8")
    assert champion.release.id in noted and user not in noted.replace(champion.release.id, "")
    named = {Path(place.place) for place in told.remains}
    assert holders(settings.home, user) <= named, "what still has the person is in the answer"
    assert {path.resolve() for path in left} <= named
    assert champion.release.path / "model.onnx" in named, "its vocabulary has the hash"
    artifacts = [place for place in told.remains if Path(place.place).is_relative_to(settings.home / "artifacts")]
    assert artifacts and all("release" in place.why or "made of the rows" in place.why for place in artifacts)
    assert not replaced_catalogs(settings) and not (settings.home / FOLDER).exists()


@pytest.mark.long
def test_killed_at_any_moment_and_run_again_the_person_is_gone(settings: Settings) -> None:
    user = users(settings)[0]
    named, rest = ids(settings, user), others(settings, user)
    code = (
        "import sys; from ml.operations.forget import forget\n"
        "from ml.foundation.settings import Settings; print('go', flush=True); "
        "forget(Settings(), sys.argv[1])"
    )
    rng = random.Random(SEED)
    for _ in range(3):
        command = [sys.executable, "-c", code, user]
        with subprocess.Popen(command, env=home_environment(settings.home), stdout=subprocess.PIPE) as process:
            assert process.stdout and process.stdout.readline() == b"go\n"
            time.sleep(rng.uniform(0.5, 8.0))
            os.kill(process.pid, signal.SIGKILL)
        assert others(settings, user) == rest
    forget(settings, user)
    assert_gone(settings, named)
    assert others(settings, user) == rest


def test_the_command_says_what_would_go_and_knows_a_stranger(settings: Settings) -> None:
    def call(words: list[str]) -> str:
        done = CliRunner().invoke(app, words, env=home_environment(settings.home, COLUMNS="200"))
        assert done.exit_code == 0, (words, done.exception)
        return done.output

    user = users(settings)[0]
    printed = call(as_shown("crossfade forget u17 --dry-run", {"u17": user}))
    assert (
        "landing.exposures" in printed
        and "trained on these rows, homepage" in printed
        and "nothing was changed" in printed
    )
    assert "no file and no table names this user" in call(["forget", "nobody", "--dry-run"])
    assert "trained on these rows" in call(as_shown("crossfade forget u17", {"u17": user}))
    assert user not in users(settings)
