"""What `<surface>/rankings` promises: the server's own order and scores, written whole or not at all, day by day."""

import json
import shutil
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import httpx
import numpy as np
import polars as pl
import pytest

import ml.inference.ranking
from assets.progress import ProgressResource
from assets.rankings import build_rankings
from deploy.automation.jobs import (
    BASE_JOB,
    LABELS_JOB,
    RANKING_JOB,
    Job,
    rankings_job_name,
    rollback_job,
    widening_job_name,
)
from deploy.automation.sensors import build_sensors
from ml.foundation.lake import Lake, connect, install_extension
from ml.foundation.settings import EXAMPLES, Settings
from ml.inference.ranking import RankingError
from ml.inference.snapshot import SnapshotError, features_of
from ml.landing.databases import DatabaseError
from ml.operations.plan import Rebuild, plan
from ml.stages.rankings import rank_days
from ml.stages.to_rank import faults_of_columns
from ml.surfaces.files import load_surface
from ml.surfaces.spec import Surface
from tests.support.known import present
from tests.support.tiny_home import DAY, ITEMS, USERS, Home, tiny_settings

pytestmark = pytest.mark.slow

QUERIES = {
    "homepage": f"""
        select 'u' || u as user_id, 'i' || i as item_id,
            case i % 3 when 0 then 'new' when 1 then 'old' end as container_id,
            (u % 24)::int as hour,
            case when u % 2 = 0 then ['skipped', 'completed'] end as session_outcomes
        from range({USERS + 3}) as users(u), range({ITEMS + 4}) as items(i)
        where {{day}} >= date '2026-01-01' and (u + i) % 3 > 0""",
    "radio": f"""
        select u as user_id, 'i' || i as item_id, 'i' || u as seed_item_id, timestamp '2026-01-20 21:30:00' as ts
        from (select 'u' || u as u from range({USERS}) as users(u) union all select null), range({ITEMS}) as items(i)
        where {{day}} is not null""",
}
TOP = 7


def declaring(settings: Settings, name: str, query: str, to: object = "lake") -> Surface:
    """Have candidates of a surface ranked: write their query and the key into the app's folder."""
    app = present(settings.app)
    (app / "rankings").mkdir(exist_ok=True)
    (app / "rankings" / f"{name}.sql").write_text(query, encoding="utf-8")
    told = {"candidates": f"rankings/{name}.sql", "top_k": TOP, "to": to}
    text = (EXAMPLES / "simulator" / "surfaces" / f"{name}.yaml").read_text(encoding="utf-8")
    file = app / "surfaces" / f"{name}.yaml"
    file.write_text(f"{text}\nrankings: {json.dumps(told)}\n", encoding="utf-8")
    return load_surface(file)


@pytest.fixture
def ranking(ready_home: Home, tmp_path: Path) -> Settings:
    """A copy of the home with champions, and of its app."""
    home = shutil.copytree(ready_home.settings.home, tmp_path / "home")
    return tiny_settings(home, app=shutil.copytree(EXAMPLES / "simulator", tmp_path / "app"))


@pytest.fixture
def empty(tmp_path: Path) -> Settings:
    """A home without releases, and the app."""
    return tiny_settings(tmp_path / "home", app=shutil.copytree(EXAMPLES / "simulator", tmp_path / "app"))


def materialize(settings: Settings, surface: Surface, first: date = DAY, last: date = DAY) -> dg.ExecuteInProcessResult:
    [asset] = build_rankings(settings, surface)
    tags = {"dagster/asset_partition_range_start": str(first), "dagster/asset_partition_range_end": str(last)}
    resources = {"settings": settings, "progress": ProgressResource()}
    return dg.materialize([asset], resources=resources, tags=tags, instance=dg.DagsterInstance.ephemeral())


def held(settings: Settings, surface: str, day: date = DAY) -> pl.DataFrame:
    with Lake(settings) as lake:
        query = f"select * from lake.ml.rankings_{surface} where day = ? order by user_id nulls last, rank"
        return pl.DataFrame(lake.sql(query, [day]))


def asked(settings: Settings, surface: str) -> dict[str | None, dict[str, Any]]:
    """Return the requests that somebody would send to the server for the same candidates, by user."""
    query = QUERIES[surface].replace("{day}", f"date '{DAY}'")
    requests: dict[str | None, dict[str, Any]] = {}
    for row in duckdb.sql(f"{query} order by user_id, item_id").pl().to_dicts():
        each = {"item_id": row.pop("item_id")} | ({"container_id": row.pop("container_id")} if "hour" in row else {})
        row["ts"] = row["ts"].isoformat() if "ts" in row else None
        request = requests.setdefault(row["user_id"], {"surface": surface, **row, "candidates": []})
        request["candidates"].append(each)
    return requests


@pytest.mark.parametrize("most", [10_000, 8])
@pytest.mark.parametrize("surface", ["homepage", "radio"])
def test_the_asset_ranks_as_the_server_does(
    client: httpx.Client, ranking: Settings, monkeypatch: pytest.MonkeyPatch, surface: str, most: int
) -> None:
    """Skew: order and scores of the asset are those of HTTP, however few candidates are scored at once."""
    monkeypatch.setattr(ml.inference.ranking, "MOST_ROWS", most)
    spec = declaring(ranking, surface, QUERIES[surface])
    assert materialize(ranking, spec).success
    rows, requests = held(ranking, surface), asked(ranking, surface)
    assert set(rows["user_id"]) == requests.keys()
    tolerance = spec.gate.onnx.tolerance
    for (user,), own in rows.group_by("user_id", maintain_order=True):
        answer = client.post("/rank", json=requests[user]).raise_for_status().json()
        first = answer["items"][:TOP]
        assert own["item_id"].to_list() == [item["item_id"] for item in first], user
        assert own["rank"].to_list() == list(range(1, TOP + 1))
        assert set(own["release"]) == {answer["release"]}
        assert set(own["features_day"]) == {date.fromisoformat(answer["feature_day"])}
        for name in ("score", *spec.tasks):
            np.testing.assert_allclose(own[name], [item[name] for item in first], rtol=tolerance, atol=tolerance)


def test_features_of_a_day_of_the_lake_are_those_that_were_published(ready_home: Home) -> None:
    with Lake(ready_home.settings) as lake:
        found = features_of(lake, ready_home.settings, DAY)
        assert [
            path.name for path in (ready_home.settings.home / "serving" / "features").iterdir() if path.is_dir()
        ] == [found.id]
        with pytest.raises(SnapshotError, match="no features of 2026-01-19"):
            features_of(lake, ready_home.settings, DAY - timedelta(days=1))


def test_a_day_that_fails_keeps_what_was_written_and_one_that_is_ranked_again_replaces_it(ranking: Settings) -> None:
    query = QUERIES["radio"]
    [first] = rank_days(ranking, declaring(ranking, "radio", query), [DAY])
    before = held(ranking, "radio")
    late = query.replace("timestamp '2026-01-20 21:30:00'", "timestamp '2026-01-20 21:30:00' + i * interval 1 minute")
    with pytest.raises(RankingError, match=r"user 'u0' has ts .* and .*: all candidates of a user"):
        rank_days(ranking, declaring(ranking, "radio", late), [DAY])
    none = declaring(ranking, "radio", f"{query} and false")
    with pytest.raises(RankingError, match=r"radio\.sql has no candidate on 2026-01-20; what was written for it stays"):
        rank_days(ranking, none, [DAY])
    assert held(ranking, "radio").equals(before)
    [again] = rank_days(ranking, declaring(ranking, "radio", query), [DAY])
    assert again.digest == first.digest and held(ranking, "radio").equals(before)
    assert first.rows == len(before) == TOP * (USERS + 1) and not planned(ranking)
    fewer = declaring(ranking, "radio", f"{query} and u = 'u3'")
    [changed] = planned(ranking)
    assert (changed.days, changed.first, changed.why) == (1, DAY, "its candidates' query, top_k or place")
    rank_days(ranking, fewer, [DAY])
    assert held(ranking, "radio")["user_id"].unique().to_list() == ["u3"] and not planned(ranking)


def planned(settings: Settings) -> list[Rebuild]:
    return [rebuild for rebuild in plan(settings, {}) if rebuild.what.endswith("/rankings")]


def test_without_a_champion_nothing_is_ranked_and_the_run_is_green(empty: Settings) -> None:
    result = materialize(empty, declaring(empty, "radio", QUERIES["radio"]))
    assert result.success and not result.get_asset_materialization_events()


def test_the_sensor_asks_once_for_features_of_a_day_and_a_champion(ready_home: Home, empty: Settings) -> None:
    surfaces = {name: declaring(empty, name, "") for name in ready_home.surfaces}
    names = [BASE_JOB, RANKING_JOB, LABELS_JOB, rollback_job.name]
    names += [name(surface) for surface in surfaces.values() for name in (widening_job_name, rankings_job_name)]
    jobs: list[Job] = [dg.define_asset_job(name) for name in names]
    found = {sensor.name: sensor for sensor in build_sensors(ready_home.settings, surfaces, jobs)}
    sensor = found["radio_rankings_sensor"]
    with dg.build_sensor_context(resources={"settings": ready_home.settings}) as context:
        asks = sensor(context)
    assert isinstance(asks, dg.RunRequest) and asks.partition_key == str(DAY)
    champion = present(ready_home.store.champion("radio"))
    assert present(asks.run_key).endswith(champion.release.id) and str(DAY) in present(asks.run_key)
    with dg.build_sensor_context(resources={"settings": empty}) as context:
        skips = sensor(context)
    assert isinstance(skips, dg.SkipReason) and skips.skip_message == "radio has no champion yet"


def test_rows_go_to_a_file_of_the_day_that_is_never_half_written(ranking: Settings) -> None:
    surface = declaring(ranking, "radio", QUERIES["radio"], {"parquet": "out/{day}/radio.parquet"})
    rank_days(ranking, surface, [DAY])
    [file] = [path for path in (ranking.home / "out").rglob("*") if path.is_file()]
    assert file == ranking.home / "out" / "2026-01-20" / "radio.parquet"
    rows = pl.read_parquet(file)
    assert len(rows) == TOP * (USERS + 1) and set(rows["surface"]) == {"radio"}


@pytest.mark.parametrize("kind", ["postgres", "sqlite"])
def test_rows_go_to_a_table_of_the_apps_database_in_one_transaction(
    ranking: Settings,
    tmp_path: Path,
    postgres: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    address = postgres("rankings") if kind == "postgres" else str(tmp_path / "shop.db")
    monkeypatch.setenv("SHOP_URL", address)
    spec = declaring(ranking, "radio", QUERIES["radio"], {"database": "shop", "table": "rankings"})
    app = present(ranking.app)
    (app / "sources.yaml").write_text(json.dumps({"attach": {"shop": {"type": kind, "env": "SHOP_URL"}}}))
    if kind == "sqlite":
        Path(address).touch()
    rank_days(ranking, spec, [DAY])
    rank_days(ranking, spec, [DAY])
    rows = shop_rows(kind, address, "select * from shop.rankings order by user_id nulls last, rank")
    assert len(rows) == TOP * (USERS + 1) and [row[3] for row in rows[:TOP]] == list(range(1, TOP + 1))
    shop_rows(kind, address, "create table shop.other as select * exclude (score) from shop.rankings limit 3")
    other = declaring(ranking, "radio", QUERIES["radio"], {"database": "shop", "table": "other"})
    with pytest.raises(DatabaseError, match="table other of shop has no column 'score'"):
        rank_days(ranking, other, [DAY])
    assert shop_rows(kind, address, "select count(*) from shop.other") == [(3,)]
    nowhere = declaring(ranking, "radio", QUERIES["radio"], {"database": "shopp", "table": "rankings"})
    with pytest.raises(DatabaseError, match=r"attaches no 'shopp'; did you mean 'shop'\?"):
        rank_days(ranking, nowhere, [DAY])


def shop_rows(kind: str, address: str, statement: str) -> list[Any]:
    install_extension(f"{kind}_scanner")
    with connect([f"{kind}_scanner"]) as connection:
        connection.execute(f"attach '{address}' as shop (type {kind})")
        return connection.execute(statement).fetchall()


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("select u as user_id, 'i1' as item_id, 9 as hour from range(9) as t(u) where {day} > '2026-01-01'",
         "know none of its users: select user_id as it landed, such as landing.users.user_id"),
        ("select 'u1' as user_id, 'nobody' as item_id, 9 as hour where {day} is not null",
         "know none of its items: select item_id as it landed"),
        ("select 'u1' as user_id, 'i1' as item_id, 9 as hour from range(2) where {day} is not null",
         "user 'u1' has item 'i1' twice"),
        ("select 'u1' as user_id, 'i1' as item_id, 25 as hour where {day} > '2026-01-01'", "'u1': hour must be an"),
        ("select 'u1' as user_id, 'i1' as item_id, 9 as hour", "it must name the day"),
        ("select 'u1' as user_id, 'i1' as item_id where {daz}", r"unknown \{daz\}; did you mean 'day'\?"),
        ("select 'u1' as userid, 'i1' as item_id where {day} > '2026-01-01'",
         "no column 'user_id'; did you mean 'userid'"),
        ("delete from landing.users where day = {day}", "it must be one query"),
        ("select x from lake.landing.userss where day = {day}", "userss"),
    ],
)  # fmt: skip
def test_candidates_that_cannot_be_ranked_are_refused_by_name(ranking: Settings, query: str, said: str) -> None:
    with pytest.raises(RankingError, match=said) as refused:
        rank_days(ranking, declaring(ranking, "homepage", query), [DAY])
    assert "homepage.sql" in str(refused.value) or str(refused.value).startswith("user")


def test_columns_of_candidates_are_told_with_the_nearest_all_at_once(ready_home: Home) -> None:
    inputs = ready_home.surfaces["homepage"].inputs
    kinds = {
        "user_id": "DOUBLE",
        "item_id": "VARCHAR",
        "containr_id": "VARCHAR",
        "genre": "VARCHAR",
        "column": "BIGINT",
    }
    assert list(faults_of_columns(inputs, {**kinds, "session_outcomes": "VARCHAR"})) == [
        "column 'user_id' is DOUBLE, which is no id: select it as it landed, as text or a whole number",
        "column 'containr_id' is no request input of the surface; did you mean 'container_id'?",
        "column 'genre' is no input of a request: it is looked up in the features",
        "column 'column' is no input of a request: it is known only after ranking",
        "column 'session_outcomes' is VARCHAR, which is no event_list",
        "no column 'hour', which the surface reads: select the hour at which users look, such as 18 as hour",
    ]
