"""The dashboard shows what lake and stores hold, on a page that reaches for nothing and runs nothing."""

import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from deploy.cli.main import app
from ml.evaluation.results import Difference
from ml.foundation.lake import Lake
from ml.foundation.settings import PROJECT_ROOT, Settings
from ml.operations.dashboard import as_page, rows
from ml.operations.weeks import Calibrated, Covered, Evaluated, Moved, ServedDay, Weeks, weeks
from ml.releases.store import ReleaseStore
from ml.stages.evaluation import read_evaluation
from ml.surfaces.files import load_surfaces
from tests.support.commands import home_environment
from tests.support.known import present
from tests.support.pages import as_shown

DAY = date(2026, 3, 1)


@pytest.fixture(scope="module")
def settings(tiny_demo: Path) -> Settings:
    return Settings(home=tiny_demo, surfaces_dir=PROJECT_ROOT / "tests" / "surfaces", threads=1)


def week(day: date, decision: str, estimate: float) -> Evaluated:
    gain = Difference(estimate, estimate - 0.01, estimate + 0.01, 0.005, 0.01, 900, 90, 80)
    calibration = {"ctr": Calibrated(0.01, 1.1)}
    return Evaluated(day, {"ctr": "auc"}, {"ctr": gain}, calibration, "student", decision, "because <b>so</b>", 9)


def homepage() -> Weeks:
    days = [DAY + timedelta(days=i) for i in range(3)]
    decided = zip(days, ("pass", "fail", "inconclusive"), (0.02, -0.03, 0.0), strict=True)
    return Weeks(
        surface="homepage",
        evaluated=tuple(week(*of) for of in decided),
        moved=(Moved(DAY, "promoted", "r1", "<script>alert(1)</script>", "first"),),
        covered=tuple(Covered(day, 100, 0.5 + 0.25 * i) for i, day in enumerate(days)),
        champion="r1",
        features=DAY,
        newest=days[-1],
    )


def page(*found: Weeks) -> str:
    return as_page(found, "two <weeks>", datetime(2026, 3, 4, tzinfo=UTC))


@pytest.mark.slow
def test_the_page_needs_no_other_file_and_text_of_the_stores_is_shown_not_run() -> None:
    text = page(homepage())
    assert "<script" not in text and "because &lt;b&gt;so" in text and "two &lt;weeks&gt;" in text
    assert not re.findall(r'(?:src|href)="(?!#)[^"]*"', text) and "url(http" not in text
    assert "1 promoted, 1 refused" in text and "50.0 % of the rows of 2026-03-01" in text and "2 days behind" in text
    drawn = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(drawn) == 4
    for picture in drawn:
        ElementTree.fromstring(picture)


@pytest.mark.slow
def test_what_was_served_is_told_where_it_was_compared() -> None:
    assert "served log" not in page(homepage())
    day = ServedDay(DAY, 900, {"item_ctr": 0.25}, {"ctr": 1.04})
    text = page(replace(homepage(), served=day))
    assert "2026-03-01, 900 exposures: item_ctr unequal in 25.0%, predicted / observed ctr 1.04" in text
    assert "no input unequal" in page(replace(homepage(), served=replace(day, unequal={})))


def test_every_colour_of_a_plot_is_one_that_the_dark_theme_has_too() -> None:
    text = page(homepage())
    drawn = "".join(re.findall(r"<svg.*?</svg>", text, re.DOTALL))
    assert drawn and not re.findall(r"#[0-9a-f]{6}", drawn)
    light, dark = (set(re.findall(r"--(\w+):", block)) for block in re.findall(r":root \{(.*?)\}", text, re.DOTALL))
    assert set(re.findall(r"var\(--(\w+)\)", text)) <= light == dark


def test_a_surface_without_any_day_has_a_page_too() -> None:
    text = page(replace(homepage(), evaluated=(), moved=(), covered=(), champion=None, features=None, newest=None))
    assert "No student was evaluated yet" in text and "<svg" not in text


def test_the_command_writes_the_page_and_shows_the_newest_day(settings: Settings) -> None:
    done = CliRunner().invoke(app, as_shown("crossfade dashboard"), env=home_environment(settings.home, COLUMNS="200"))
    assert done.exit_code == 0, done.exception
    told = [line.split()[:3] for line in done.stdout.splitlines()[2:]]
    day = str(settings.last_day)
    expected = [[name, day, task] for name, surface in load_surfaces(settings).items() for task in surface.tasks]
    assert told == expected and (settings.reports_dir / "dashboard.html").is_file()


def test_the_rows_are_those_of_evaluation_verdict_log_and_lake(settings: Settings) -> None:
    found = {of.surface: of for of in weeks(settings, 60)}
    day = present(settings.last_day)
    table = rows(list(found.values()))
    with Lake(settings) as lake:
        for name, surface in load_surfaces(settings).items():
            evaluation, of = read_evaluation(settings, surface, day), found[name]
            told = {row["task"]: row["student - control"] for row in table if row["surface"] == name}
            assert told == {t: evaluation.difference("student", "control", t).estimate for t in surface.tasks}
            assert of.champion == ReleaseStore.of(settings).champions.read(name).champion
            (labelled,) = lake.sql(
                f"select avg((exposure_id in (select exposure_id from lake.ml.soft_labels_{name}))::int) as share "
                f"from lake.features.examples_{name} where day = ?",
                [of.covered[-1].day],
            ).to_pylist()
            assert of.covered[-1].share == pytest.approx(labelled["share"])
            assert of.evaluated[-1].decision in ("pass", "fail") and of.evaluated[-1].because
    assert not [of for of in weeks(settings, 1) if len(of.covered) > 1]
