"""An app of ratings in MovieLens's format: no listens, no creators."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import yaml

from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.landing.changes import changed_days
from ml.landing.load import init_tables, load_days
from ml.surfaces.scaffold import scaffold

FIRST = datetime(2026, 3, 1, tzinfo=UTC)
DAYS, USERS, MOVIES, RATINGS = 4, 80, 50, 1200


def movielens() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return ``ratings.csv`` and ``movies.csv``: userId, movieId, rating, timestamp; movieId, title, genres."""
    rng = np.random.default_rng(3)
    pairs = rng.choice(USERS * MOVIES, RATINGS, replace=False)
    seconds = int(FIRST.timestamp()) + rng.integers(0, 86_400 * DAYS, RATINGS)
    stars = np.clip(np.round(2 * rng.normal(3.5, 1, RATINGS)) / 2, 0.5, 5)
    columns = {"userId": pairs // MOVIES, "movieId": pairs % MOVIES, "rating": stars, "timestamp": seconds}
    movies = {"movieId": range(MOVIES), "title": [f"Film {m}" for m in range(MOVIES)], "genres": "Drama|War"}
    return pl.DataFrame(columns), pl.DataFrame(movies)


def land(folder: Path) -> None:
    """Write the landing zone of such a log: an exposure and an outcome per rating."""
    ratings, movies = movielens()
    ratings = ratings.with_columns(
        pl.format("{}-{}", "userId", "movieId").alias("exposure_id"),
        pl.from_epoch("timestamp").alias("ts"),
        (pl.col("timestamp") // 86_400).alias("night"),
    )
    names = {"userId": "user_id", "movieId": "item_id"}
    for number in range(DAYS):
        moment = FIRST + timedelta(days=number)
        rows = ratings.filter(pl.col("night") == int(moment.timestamp()) // 86_400).rename(names)
        session = pl.format("{}-{}", "user_id", "night").alias("session_id")
        tables = {
            "exposures": rows.select("exposure_id", "ts", "user_id", "item_id", session, surface=pl.lit("films")),
            "outcomes": rows.select("exposure_id", "ts", name=pl.lit("rating"), value="rating"),
            "items": movies.select(item_id="movieId", genre=pl.col("genres").str.split("|").list.first()),
            "users": rows.select("user_id").unique(),
        }
        for name, table in tables.items():
            target = folder / name / f"day={moment.date()}"
            target.mkdir(parents=True)
            table.write_csv(target / "part-0.csv")
            (target / "_SUCCESS").touch()


def test_an_app_of_ratings_lands_builds_and_counts_them(build_days: Callable[..., None], tmp_path: Path) -> None:
    app = tmp_path / "films"
    path, sql, *_ = scaffold("films", app)
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    inputs = {name: value for name, value in content["inputs"].items() if "creator" not in name}
    network = content["network"] | {"products": [["user_id", "item_id"]]}
    labels = {"rated": {"any": "rating"}, "stars": {"latest": "rating"}}
    path.write_text(
        yaml.safe_dump(content | {"inputs": inputs, "network": network, "labels": labels}), encoding="utf-8"
    )
    sql.write_text(
        """select
    inputs.* exclude (surface),
    (coalesce(labels.value, 0) >= 4)::integer::double as label_ctr
from {{ ref('example_inputs') }} as inputs
left join {{ ref('declared_labels') }} as labels
    on inputs.day = labels.day and inputs.exposure_id = labels.exposure_id and labels.label = 'stars'
where inputs.surface = 'films'
""",
        encoding="utf-8",
    )
    land(tmp_path / "landing")
    settings = Settings(
        home=tmp_path / "home",
        app=app,
        landing_dir=tmp_path / "landing",
        source="files",
        first_day=FIRST.date(),
        optional_tables=("listens", *Settings.model_fields["optional_tables"].default),
        click_outcomes=("rating",),
        smoothing_impressions=2,
        threads=1,
    )
    days = [FIRST.date() + timedelta(days=i) for i in range(DAYS)]
    with Lake(settings) as lake:
        init_tables(lake)
        assert list(changed_days(settings).ready) == days, "a day without listens is complete"
        load_days(lake, settings, days, {"films"})
    build_days(settings, days[0], days[-2], tests=True)
    with Lake(settings) as lake:
        found = lake.sql(
            """select count(*) as n, count(creator_id) as creators, avg(label_ctr) as liked, min(item_ctr) as lowest,
            sum(item_plays) as plays from lake.features.examples_films where day = ?""",
            [days[-2]],
        )
        clicks = lake.sql("select sum(clicks) as clicks, sum(impressions) as shown from lake.features.int_day")
    row = found.to_pylist()[0]
    assert row["n"] > 200 and row["creators"] == 0 and row["plays"] == 0
    assert 0.2 < row["liked"] < 0.8 and row["lowest"] == 1, "every film that was shown was rated"
    assert clicks["clicks"][0].as_py() == clicks["shown"][0].as_py() > 600
