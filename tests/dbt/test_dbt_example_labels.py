"""Labels of the worked examples, from their landed files to ``examples_<surface>``."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest
import yaml

from ml.features.build import DbtError
from ml.foundation.lake import Lake
from ml.foundation.settings import EXAMPLES, Settings
from ml.landing.load import init_tables, load_days

FIRST = date(2026, 3, 1)


def landed(app: str, surface: str, days: int, folder: Path, keys: dict[str, object]) -> Settings:
    """Return a home with some landed days of a copy of a worked example, its surface extended by ``keys``."""
    copy = shutil.copytree(EXAMPLES / app, folder / app, ignore=shutil.ignore_patterns("landing", "model.onnx"))
    subprocess.run([sys.executable, str(copy / "make_landing.py")], check=True)
    path = copy / "surfaces" / f"{surface}.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    path.write_text(yaml.safe_dump(content | keys), encoding="utf-8")
    settings = Settings(
        home=folder / "home", app=copy, landing_dir=copy / "landing", source="files", first_day=FIRST, threads=1
    )
    with Lake(settings) as lake:
        init_tables(lake)
        load_days(lake, settings, [FIRST + timedelta(days=i) for i in range(days)], {surface})
    return settings


def with_keys(settings: Settings, surface: str, keys: dict[str, object]) -> Settings:
    """Change keys of a surface's YAML."""
    assert settings.app is not None
    path = settings.app / "surfaces" / f"{surface}.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text(encoding="utf-8")) | keys), encoding="utf-8")
    return settings


def test_a_purchase_after_five_days_counts_where_the_label_window_is_five_days(
    build_days: Callable[..., None], tmp_path: Path
) -> None:
    keys = {"labels": {"cooked": {"any": "ordered"}}, "label_window_days": 5}
    settings = landed("recipes", "suggestions", 6, tmp_path, keys)
    assert settings.app is not None
    model = settings.app / "models" / "surfaces" / "suggestions" / "examples_suggestions.sql"
    text = model.read_text(encoding="utf-8")
    declared = "(select * exclude (surface) from {{ ref('declared_labels') }} where label = 'cooked') as ordered"
    same = "inputs.day = ordered.day and inputs.exposure_id = ordered.exposure_id"
    for old, new in (
        ("coalesce(named_outcomes.cooked, 0)", "coalesce(ordered.value, 0)"),
        ("left join parties", f"left join {declared} on {same}\nleft join parties"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    model.write_text(text, encoding="utf-8")

    def bought() -> set[str]:
        with Lake(settings) as lake:
            found = lake.sql(
                """select landed_exposure_id as e from lake.features.examples_suggestions inner join
                lake.features.stg_exposures using (day, exposure_id) where label_cooked = 1 and day = ?""",
                [FIRST],
            )
        return set(found["e"].to_pylist())

    build_days(settings, FIRST, FIRST + timedelta(days=5), stages=("base",))
    build_days(settings, FIRST, FIRST, stages=("ranking",))
    outcomes = pl.read_ndjson(
        settings.app / "landing" / "outcomes" / f"day={FIRST + timedelta(days=5)}" / "part-0.jsonl"
    )
    ordered = outcomes.filter(pl.col("name") == "ordered")["exposure_id"].to_list()
    assert bought() == set(ordered) and len(ordered) > 50
    build_days(with_keys(settings, "suggestions", {"label_window_days": 4}), FIRST, FIRST, stages=("ranking",))
    assert bought() == set()
    wrong = with_keys(settings, "suggestions", {"labels": {"cooked": {"any": "order"}}})
    with pytest.raises(
        DbtError, match=r"labels\.cooked counts the outcome 'order', which has not landed.*did you mean 'ordered'"
    ):
        build_days(wrong, FIRST, FIRST, stages=("ranking",))


def test_an_episode_is_finished_in_its_session_or_two_days_later(
    build_days: Callable[..., None], tmp_path: Path
) -> None:
    settings = landed("podcasts", "episodes", 3, tmp_path, {})
    build_days(settings, FIRST, FIRST + timedelta(days=2), stages=("base",))
    build_days(settings, FIRST, FIRST, stages=("ranking",))
    with Lake(settings) as lake:
        found = lake.sql(
            """select label_finished as finished, coalesce(own.named, 0) as named, coalesce(own.later, false) as later,
                coalesce(own.completed, false) as completed
            from lake.features.examples_episodes left join (
                select exposure_id, count(*) as named, bool_or(day > ?) as later,
                    bool_or(outcome = 'completed') as completed
                from lake.features.stg_listens where exposure_id is not null group by exposure_id
            ) as own using (exposure_id) where day = ?""",
            [FIRST, FIRST],
        )
    rows = pl.DataFrame(found)
    assert rows.height > 300 and set(rows["finished"]) == {0.0, 1.0}
    assert rows.filter(pl.col("named") == 0)["finished"].sum() == 0, "what nobody played is not finished"
    assert rows.filter(pl.col("completed"))["finished"].min() == 1
    assert rows.filter(pl.col("later"))["finished"].min() == 1, "the rest two days later counts"
    once = rows.filter((pl.col("named") == 1) & ~pl.col("completed"))
    assert 10 < once["finished"].sum() < once.height, "the rest in the session, by a listen that names nothing, counts"
    build_days(with_keys(settings, "episodes", {"label_window_days": 1}), FIRST, FIRST, stages=("ranking",))
    with Lake(settings) as lake:
        short = lake.sql("select sum(label_finished) as n from lake.features.examples_episodes where day = ?", [FIRST])
    assert short["n"][0].as_py() == rows.filter(~pl.col("later"))["finished"].sum()
