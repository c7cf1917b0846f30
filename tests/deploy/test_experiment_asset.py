"""The asset of experiments over landed exposures that carry a variant."""

from datetime import date
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest

from assets.experiment import build_experiment
from ml.experiments.landed import landed_table
from ml.foundation.lake import Lake
from ml.foundation.settings import PROJECT_ROOT, Settings
from ml.surfaces.spec import Surface, load_surfaces

FIRST, SECOND, THIRD = (date(2026, 1, d) for d in (1, 2, 3))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        home=tmp_path / "home",
        surfaces_dir=PROJECT_ROOT / "tests" / "surfaces",
        first_day=FIRST,
        last_day=THIRD,
        threads=1,
    )


def land(settings: Settings) -> None:
    """Two days with variants and one without. Trails are log1p(seconds); user 5 meets both variants, user 9 none."""
    import math

    log = math.log1p
    rows = [
        # day, exposure, session, user, variant, trail, discovery, age
        (FIRST, 1, 10, 1, "control", log(100), 1.0, 3.0),
        (FIRST, 2, 10, 1, "control", None, 0.0, 9.0),
        (FIRST, 3, 11, 2, "control", log(300), 0.0, 30.0),
        (FIRST, 4, 12, 3, "student", log(240), 1.0, 7.0),
        (FIRST, 5, 13, 3, "student", log(200), 1.0, 8.0),
        (FIRST, 6, 14, 9, None, log(5000), 1.0, 1.0),
        (SECOND, 7, 15, 4, "student", log(160), 0.0, 0.0),
        (SECOND, 8, 16, 5, "control", log(50), 0.0, 50.0),
        (SECOND, 9, 17, 5, "student", log(60), 0.0, 50.0),
        (THIRD, 10, 18, 1, None, log(70), 0.0, 50.0),
    ]
    names = ("day", "exposure_id", "session_id", "user_id", "arm", "label_trail", "label_discovery", "item_age_days")
    both = pa.table({name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)})
    examples = both.drop_columns(["arm"])
    radio = examples.drop_columns(["label_trail", "label_discovery"])
    radio = radio.append_column("label_engagement", pa.array([1.0, 0.0, 1.0, 1.0, None, 1.0, 1.0, 0.0, 1.0, 1.0]))
    radio = radio.append_column("user_creator_known", pa.array([0, 0, 1, 0, 0, 0, 1, 0, 0, 0]))
    days = [FIRST, SECOND, THIRD]
    with Lake(settings) as lake:
        lake.replace_days("features.examples_homepage", examples, days)
        lake.replace_days("features.examples_radio", radio, days)
        lake.replace_days("features.stg_exposures", both.select(["day", "exposure_id", "arm"]), days)


def materialize(settings: Settings, surface: Surface, first: date, last: date) -> dict:
    asset = build_experiment(settings, surface)
    tags = {"dagster/asset_partition_range_start": str(first), "dagster/asset_partition_range_end": str(last)}
    result = dg.materialize([asset], resources={"settings": settings}, tags=tags)
    assert result.success
    [event] = result.asset_materializations_for_node(asset.node_def.name)[:1]
    return {name: getattr(value, "value", value) for name, value in event.metadata.items()}


def test_landed_variants_are_summed_and_compared_as_the_labels_define_them(settings: Settings):
    land(settings)
    shown = materialize(settings, load_surfaces(settings)["homepage"], FIRST, SECOND)
    # Control: 450 s in 3 sessions; student: 660 s in 4.
    assert shown["landed_student_engagement_split_percent"] == pytest.approx(100 * ((660 / 4) / (450 / 3) - 1))
    assert shown["landed_student_discovery_split_percent"] == pytest.approx(100 * ((2 / 4) / (1 / 3) - 1))
    assert shown["landed_student_new_releases_split_percent"] == pytest.approx(100 * ((400 / 4) / (100 / 3) - 1))
    assert shown["landed_users"] == 5 and "| landed | student - control | engagement |" in shown["summary"]
    assert shown["landed_student_by_day"].startswith("![landed_student_by_day](data:image/png;base64,")
    with Lake(settings) as lake:
        rows = lake.sql("select * from lake.ml.experiment_homepage order by day, arm, user_id").to_pylist()
    assert [(r["day"], r["arm"], r["user_id"], r["requests"], r["exposures"], r["engagement"]) for r in rows] == [
        (FIRST, "control", 1, 1, 2, 100.0),
        (FIRST, "control", 2, 1, 1, 300.0),
        (FIRST, "student", 3, 2, 2, 440.0),
        (SECOND, "control", 5, 1, 1, 50.0),
        (SECOND, "student", 4, 1, 1, 160.0),
        (SECOND, "student", 5, 1, 1, 60.0),
    ]
    again = materialize(settings, load_surfaces(settings)["homepage"], FIRST, SECOND)
    assert again["summary"] == shown["summary"]


def test_a_surface_without_trails_counts_labelled_engagement(settings: Settings):
    land(settings)
    shown = materialize(settings, load_surfaces(settings)["radio"], FIRST, SECOND)
    assert shown["landed_student_engagement_split_percent"] == pytest.approx(100 * ((3 / 4) / (2 / 3) - 1))
    assert shown["landed_student_discovery_split_percent"] == pytest.approx(100 * ((2 / 4) / (1 / 3) - 1))


def test_days_without_variants_say_so(settings: Settings):
    land(settings)
    surface = load_surfaces(settings)["homepage"]
    shown = materialize(settings, surface, THIRD, THIRD)
    assert shown["summary"] == "no variant in the exposures of homepage from 2026-01-03 to 2026-01-03"
    assert shown["landed_users"] == 0 and not [name for name in shown if "by_day" in name]
    with Lake(settings) as lake:
        assert not lake.table_exists(landed_table(surface))
