"""Days beyond `keep_days` go; what a late row, a student or a stored release needs is refused or stays."""

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from ml.foundation.dropped import DaysDropped, require_kept
from ml.foundation.lake import Lake
from ml.foundation.settings import EXAMPLES, Settings
from ml.operations.housekeeping import tidy
from ml.operations.old_days import KeepRefused, drop, old_days
from ml.surfaces.files import load_surface
from tests.support.shop import Shop

NEWEST = date(2026, 4, 30)
DAYS = [NEWEST - timedelta(days=number) for number in range(90)][::-1]
KEPT = 60
SURFACE = load_surface(EXAMPLES / "simulator" / "surfaces" / "homepage.yaml")


def settings_at(home: Path) -> Settings:
    return Settings(home=home, threads=1, late_horizon_days=20, keep_days={"landing.listens": KEPT})


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ninety days of two tables, one of them staged users, and a release of early February's last days."""
    home = tmp_path_factory.mktemp("old") / "home"
    with Lake(settings_at(home)) as lake:
        lake.replace_days("landing.listens", pa.table({"day": DAYS, "n": range(90)}), DAYS)
        lake.replace_days("features.stg_users", pa.table({"day": DAYS, "n": range(90)}), DAYS)
        landed = pa.table({"table_name": ["exposures"], "day": [NEWEST], "rows_in": [0]})
        lake.append("landing.ledger", landed, "landed")
    Shop(home / "artifacts", SURFACE).release(20)
    return home


@pytest.fixture
def lake(built: Path, tmp_path: Path) -> Iterator[Lake]:
    import shutil

    with Lake(settings_at(shutil.copytree(built, tmp_path / "home"))) as lake:
        yield lake


def days_of(lake: Lake) -> list[date]:
    return [day for (day,) in lake.connection.execute("select day from landing.listens order by day").fetchall()]


@pytest.mark.slow
def test_old_days_go_except_those_that_a_release_and_their_features_need(lake: Lake) -> None:
    [found] = old_days(lake, lake.settings, [SURFACE])
    assert days_of(lake) == DAYS, "looking changes nothing"
    [(release, count)] = found.held.items()
    manifest = Shop(lake.settings.home / "artifacts", SURFACE).store.release("homepage", release).manifest
    drop(lake, [found])
    left = days_of(lake)
    assert left[-KEPT:] == DAYS[-KEPT:], "the youngest days stay"
    held = left[:-KEPT]
    assert len(held) == count and not set(held) & set(found.rows) and len(found.rows) + count == 90 - KEPT
    window = timedelta(days=lake.settings.feature_window_days)
    first = manifest.train_days[0] - window
    assert held == [day for day in DAYS[:-KEPT] if first <= day <= manifest.eval_days[-1] + timedelta(days=1)] != []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keep", "told"),
    [
        ({"landing.listens": 20}, "landing.listens = 20 is too few: a late row"),
        ({"features.stg_users": 80}, "no day of features.stg_users may go: it has the latest row"),
        ({"landing.ledger": 80}, "no day of landing.ledger may go"),
        ({"landing.listen": 80}, "no table 'landing.listen'; did you mean 'landing.listens'"),
    ],
)
def test_what_would_remove_too_much_is_refused_before_anything_goes(
    lake: Lake, keep: dict[str, int], told: str
) -> None:
    with pytest.raises(KeepRefused, match=told):
        tidy(lake.settings.model_copy(update={"keep_days": keep}), grace=timedelta(0))
    assert days_of(lake) == DAYS


def test_a_build_that_needs_a_day_that_went_is_refused_until_it_is_back(lake: Lake) -> None:
    require_kept(lake, ["landing."], DAYS[0], NEWEST)
    [found] = old_days(lake, lake.settings, [SURFACE])
    drop(lake, [found])
    gone = min(found.rows)
    with pytest.raises(DaysDropped, match=f"landing.listens of {gone} is no longer kept"):
        require_kept(lake, ["landing."], gone, gone)
    require_kept(lake, ["features."], gone, gone)
    require_kept(lake, ["landing."], DAYS[-KEPT], NEWEST)
    lake.replace_days("landing.listens", pa.table({"day": [gone], "n": [0]}), [gone])
    require_kept(lake, ["landing."], gone, gone)


@pytest.mark.slow
def test_tidying_says_which_days_went_and_frees_them(lake: Lake) -> None:
    settings = lake.settings.model_copy(update={"keep_snapshots_days": 0.0})
    lake.close()
    would = tidy(settings, grace=timedelta(0), dry_run=True)
    told = tidy(settings, grace=timedelta(0))
    assert would.days == told.days and len(told.days[0].rows) == 10
    before, after = told.tables["landing.listens"]
    assert after < before
