"""The asset of experiments over landed exposures that carry a variant."""

from datetime import date
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from assets.experiment import build_experiment
from deploy.cli.main import app
from ml.experiments.landed import analyse, landed_table, look_landed
from ml.foundation.lake import Lake
from ml.foundation.settings import PROJECT_ROOT, Settings
from ml.surfaces.files import load_surfaces
from ml.surfaces.spec import Surface
from tests.support.pages import as_shown

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


def test_exposures_of_one_list_by_two_rankers_are_credited_to_whose_picks_they_are(settings: Settings):
    days, rows = [FIRST, SECOND], []
    for k, day in enumerate(days):
        for user in range(40):
            for place in range(4):
                picked = "challenger" if (place + user) % 2 else "control"
                trail = 3.0 + user % 3 + (0.2 + 0.01 * (user % 7)) * (picked == "challenger")
                rows.append((day, len(rows), 100 * k + user, user, f"interleaved/{picked}", trail, 0.0, 30.0))
    names = ("day", "exposure_id", "session_id", "user_id", "arm", "label_trail", "label_discovery", "item_age_days")
    both = pa.table({name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)})
    surface = load_surfaces(settings)["homepage"]
    with Lake(settings) as lake:
        lake.replace_days("features.examples_homepage", both.drop_columns(["arm"]), days)
        lake.replace_days("features.stg_exposures", both.select(["day", "exposure_id", "arm"]), days)
        shown = analyse(lake, surface, days)
        recorded = lake.sql("select * from lake.ml.experiment_homepage").to_pylist()
        looks = look_landed(lake, surface, SECOND)
    assert len(recorded) == 2 * 2 * 40 and {row["estimate"] for row in recorded} == {"interleaved"}
    assert all((row["requests"], row["exposures"]) == (1, 2) for row in recorded), "both have the user's sessions"
    credit = {arm: sum(row["engagement"] for row in recorded if row["arm"] == arm) for arm in ("challenger", "control")}
    percent = 100 * (credit["challenger"] / credit["control"] - 1)
    assert shown.numbers["landed_challenger_engagement_interleaved_percent"] == pytest.approx(percent)
    assert percent > 20
    assert looks is not None and looks.ratio is None, "everybody met both"
    assert [look.decided for look in looks.looks if look.metric == "engagement"] == [True, True]


def test_days_without_variants_say_so(settings: Settings):
    land(settings)
    surface = load_surfaces(settings)["homepage"]
    shown = materialize(settings, surface, THIRD, THIRD)
    assert shown["summary"] == "no variant in the exposures of homepage from 2026-01-03 to 2026-01-03"
    assert shown["landed_users"] == 0 and not [name for name in shown if "by_day" in name]
    with Lake(settings) as lake:
        assert not lake.table_exists(landed_table(surface))


def crowd(settings: Settings, students: int) -> None:
    """Sixty users of the control and some of the student, on two days; the day before, none met a variant."""
    rows = [
        (day, 1000 * k + user, 1000 * k + user, user, None if k == 0 else arm, 4.0 + user % 5 + 0.1 * k, 0.0, 30.0)
        for k, day in enumerate((FIRST, SECOND, THIRD))
        for user, arm in enumerate(["control"] * 60 + ["student"] * students)
    ]
    names = ("day", "exposure_id", "session_id", "user_id", "arm", "label_trail", "label_discovery", "item_age_days")
    both = pa.table({name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)})
    with Lake(settings) as lake:
        lake.replace_days("features.examples_homepage", both.drop_columns(["arm"]), [FIRST, SECOND, THIRD])
        lake.replace_days("features.stg_exposures", both.select(["day", "exposure_id", "arm"]), [FIRST, SECOND, THIRD])


def test_daily_runs_look_at_the_experiment_since_its_start_with_what_was_known_before(settings: Settings):
    crowd(settings, students=60)
    surface = load_surfaces(settings)["homepage"]
    with Lake(settings) as lake:
        assert look_landed(lake, surface, SECOND) is None
        for day in (FIRST, SECOND, THIRD):
            shown = analyse(lake, surface, [day])
        looks = look_landed(lake, surface, THIRD)
    assert looks is not None and looks.days == [SECOND, THIRD] and looks.baseline == "control"
    last = {look.metric: look for look in looks.last()}["engagement"]
    # What users did the day before says nearly all of what they do.
    assert last.users == 120 and last.variance_left < 0.1 and not last.decided
    assert shown.summary.startswith("users as split: control 60 (50.00% of 50.00% meant), student 60")
    assert "Day 2 of the experiment, 2026-01-02 to 2026-01-03." in shown.summary
    assert shown.numbers["landed_sample_ratio_p"] == 1.0


def test_a_wrong_split_withholds_every_figure_unless_it_was_meant(settings: Settings):
    crowd(settings, students=110)
    surface = load_surfaces(settings)["homepage"]
    meant = surface.model_copy(
        update={"experiment": surface.experiment.model_copy(update={"shares": {"control": 6, "student": 11}})}
    )
    assert meant.digest == surface.digest and meant.ranker_digest == surface.ranker_digest
    with Lake(settings) as lake:
        refused = analyse(lake, surface, [SECOND, THIRD])
        shown = analyse(lake, meant, [SECOND, THIRD])
    assert refused.summary.startswith("**SAMPLE RATIO MISMATCH, no figure counts: control 60")
    assert not [name for name in refused.numbers if "percent" in name] and not refused.plots
    assert [name for name in shown.numbers if "percent" in name] and shown.plots


def test_an_experiment_is_planned_from_landed_days_and_read_from_the_command_line(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
):
    days = [date(2026, 1, d) for d in range(1, 7)]
    rows = [
        {"day": day, "exposure_id": 1000 * k + u, "session_id": 1000 * k + u, "user_id": u, "label_discovery": 0.0}
        | {"arm": ("control", "student")[u % 2], "label_trail": 3.0 + u % 5 * 0.4 + 0.1 * k, "item_age_days": 9.0}
        for k, day in enumerate(days)
        for u in range(0, 260 if k else 40)
    ]
    both = pa.Table.from_pylist(rows)
    surface = load_surfaces(settings)["homepage"]
    for name, value in {"HOME": settings.home, "SURFACES_DIR": settings.surfaces_dir, "FIRST_DAY": days[0]}.items():
        monkeypatch.setenv(f"CROSSFADE_{name}", str(value))

    def asked(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, arguments)
        return done.exit_code, " ".join(f"{done.output} {done.exception or ''}".split())

    with Lake(settings) as lake:
        lake.replace_days("features.examples_homepage", both.drop_columns(["arm"]), days)
        lake.replace_days("features.stg_exposures", both.select(["day", "exposure_id", "arm"]), days)
    assert "fewer than two variants are recorded on 2026-01-06" in asked("experiment", "look", "homepage")[1]
    with Lake(settings) as lake:
        analyse(lake, surface, days[3:])
    words = as_shown("crossfade experiment plan homepage --lift 0.05", {"0.05": "0.5"})
    status, planned = asked(*words, "--json")
    assert status == 0, planned
    assert "with 3 days of history: one look 1, daily looks 1" in planned, planned
    assert "A/A: of 200 random splits of these users over 3 days," in planned
    through = asked("experiment", "plan", "homepage", "--through", "2026-01-03")[1]
    assert through.startswith("homepage has final examples of 3 day(s)")
    status, shown = asked(*as_shown("crossfade experiment look homepage"), "--json")
    assert status == 0 and "users as split: control 130 (50.00% of 50.00% meant), student 130" in shown
    assert "homepage, since 2026-01-04: difference to control, %" in shown
