"""What a deletion leaves behind in the catalog, and rankings outside of the lake, are clean of a person afterwards."""

import shutil
from contextlib import closing
from datetime import date
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pytest

from ml.foundation.ids import id63
from ml.foundation.lake import ALIAS, Lake
from ml.foundation.settings import EXAMPLES, Settings
from ml.landing.databases import DatabaseError
from ml.operations.backup import note_copy
from ml.operations.forget import forget
from ml.operations.ranked_rows import ranked_rows
from ml.operations.residue import mend_bounds, rewrite_catalog

GONE, STAYS = "zz-last-user", "b-user"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    app = shutil.copytree(EXAMPLES / "simulator", tmp_path / "app")
    (app / "sources.yaml").write_text(
        f"attach:\n  shop: {{type: duckdb, path: {tmp_path}/shop.db}}\n", encoding="utf-8"
    )
    for name, to in (("homepage", "{parquet: 'out/{day}/ranks'}"), ("radio", "{database: shop, table: ranks}")):
        told = f"\nrankings: {{candidates: candidates, to: {to}}}\n"
        with (app / "surfaces" / f"{name}.yaml").open("a", encoding="utf-8") as file:
            file.write(told)
    return Settings(home=tmp_path / "home", app=app, threads=1)


def test_bounds_and_free_pages_of_the_catalog_lose_the_person(settings: Settings) -> None:
    days = [
        date(2026, 1, 1),
        date(2026, 1, 2),
    ]  # the first has nobody else, so that its file goes and none is rewritten
    rows = pa.table(
        {
            "day": days,
            "user_id": [GONE, STAYS],
            "hashed": [id63(GONE), id63(STAYS)],
        }
    )
    with Lake(settings) as lake:
        lake.replace_days("features.friends", rows, days)
        lake.connection.execute(f"delete from {ALIAS}.features.friends where user_id = ?", [GONE])
        lake.connection.execute(f"call ducklake_rewrite_data_files('{ALIAS}', delete_threshold => 0)")
        [(newest,)] = lake.connection.execute(f"select max(snapshot_id) from {ALIAS}.snapshots()").fetchall()
        lake.connection.execute(f"call ducklake_expire_snapshots('{ALIAS}', versions => ?)", [list(range(newest))])
        assert mend_bounds(lake, set(), {GONE}) == 2
        assert not mend_bounds(lake, {"user_id"}, {GONE})
        found = lake.sql(f"select user_id from {ALIAS}.features.friends where user_id >= 'b'")["user_id"].to_pylist()
        assert found == [STAYS]
    rewrite_catalog(settings)
    raw = b"".join(path.read_bytes() for path in settings.lake_dir.glob("catalog.sqlite*"))
    assert STAYS.encode() in raw and GONE.encode() not in raw and str(id63(GONE)).encode() not in raw


def test_rankings_in_files_and_databases_lose_the_person_and_a_lost_database_stops_the_call(settings: Settings) -> None:
    ranks = pl.DataFrame({"user_id": [GONE, STAYS, GONE, None], "rank": [1, 1, 2, 1]})
    file = settings.home / "out" / "2026-01-05" / "ranks"
    other = settings.home / "out" / "notes" / "ranks"
    for path in (file, other):
        path.parent.mkdir(parents=True)
        ranks.write_parquet(path)
    with closing(duckdb.connect(str(settings.home.parent / "shop.db"))) as shop:
        shop.execute("create table ranks as select * from ranks")
    copy = settings.home.parent / "catalog-of-a-backup.sqlite"
    copy.write_bytes(b"\0 rows of " + GONE.encode() + b"\0")
    note_copy(settings, copy)
    told = forget(settings, GONE)
    assert told.ranked == {str(file): 2, "shop.ranks": 2}
    assert pl.read_parquet(file)["user_id"].to_list() == [STAYS, None]
    with closing(duckdb.connect(str(settings.home.parent / "shop.db"))) as shop:
        assert shop.execute("select user_id from ranks order by all").fetchall() == [(STAYS,), (None,)]
    named = {place.place: place.holds for place in told.remains}
    assert named.keys() == {str(other.resolve()), str(copy.resolve()), "shop.ranks"}
    assert named[str(copy.resolve())] == ("the id",)
    (settings.home.parent / "shop.db").unlink()
    with Lake(settings) as lake, pytest.raises(DatabaseError, match="shop"):
        ranked_rows(settings, lake, {STAYS})
