"""KuaiRand-Pure in its official layout becomes landing files that keep its counts, labels and clock."""

import math
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ml.evaluation.bootstrap import UserWeights
from ml.evaluation.off_policy import estimate, first_choice, read_logged
from ml.foundation.lake import Lake
from ml.foundation.progress import Step
from ml.foundation.settings import EXAMPLES, Settings
from ml.lab import kuairand
from ml.landing.contract import LandingError
from ml.landing.load import LandingReport, load_days
from ml.surfaces.files import load_surface
from tests.support.known import present, the

FIRST, LAST = date(2022, 4, 20), date(2022, 4, 24)
LOG_COLUMNS = [
    "user_id",
    "video_id",
    "date",
    "hourmin",
    "time_ms",
    "is_click",
    "is_like",
    "is_follow",
    "is_comment",
    "is_forward",
    "is_hate",
    "long_view",
    "play_time_ms",
    "duration_ms",
    "profile_stay_time",
    "comment_stay_time",
    "is_profile_enter",
    "is_rand",
    "tab",
]
EARLY, LATE = "log_standard_4_08_to_4_21_pure.csv", "log_standard_4_22_to_5_08_pure.csv"


def log_row(user: int, video: int, local: datetime, tab: int, **values: int) -> dict[str, int]:
    """One official log row at a moment of China's clock."""
    moment = (local - timedelta(hours=8)).replace(tzinfo=UTC)
    row = dict.fromkeys(LOG_COLUMNS, 0) | {
        "user_id": user,
        "video_id": video,
        "date": int(local.strftime("%Y%m%d")),
        "hourmin": local.hour * 100,
        "time_ms": round(moment.timestamp() * 1000),
        "duration_ms": 20_000,
        "tab": tab,
    }
    return row | values


def base_rows() -> list[dict[str, int]]:
    rows = []
    for day in range(5):
        start = datetime(2022, 4, 20, 0, 0, 1) + timedelta(days=day)
        for user in range(6):
            for n in range(12):
                tab = (1, 1, 1, 0, 2, 4, 6, 3)[(user + n) % 8]
                click = (user + n + day) % 2
                local = start + timedelta(hours=2 * n, seconds=user)
                play = 1_000 * (1 + (user * 7 + n) % 30) if click else 0
                values = {
                    "is_click": click,
                    "play_time_ms": play,
                    "long_view": int(play >= 15_000),
                    "is_like": n % 3 // 2,
                }
                rows.append(log_row(user, (user + 5 * n) % 9, local, tab, **values))
    return rows


def write_official(folder: Path, rows: list[dict[str, int]], seed: int | None = None) -> Path:
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    log = pl.DataFrame(rows).select(LOG_COLUMNS)
    if seed is not None:
        log = log.sample(fraction=1, shuffle=True, seed=seed)
    log.filter(pl.col("date") <= 20220421).write_csv(data / EARLY)
    log.filter(pl.col("date") >= 20220422).write_csv(data / LATE)
    features = {f"onehot_feat{i}": [0.5] * 6 for i in range(18)}
    pl.DataFrame(
        {
            "user_id": range(6),
            "user_active_degree": ["full_active"] * 5 + ["UNKNOWN"],
            "fans_user_num_range": ["[10,100)"] * 6,
            "register_days": [40, 100, 20, 500, 800, 1000],
        }
        | features
    ).write_csv(data / kuairand.USERS)
    pl.DataFrame(
        {
            "video_id": range(9),
            "author_id": [7, 7, 8, 8, 9, 9, 10, 10, 11],
            "video_type": ["NORMAL"] * 9,
            "upload_dt": ["2022-04-10"] * 8 + ["2022-04-21"],
            "video_duration": [20_000.0] * 8 + [None],
            "tag": ["39,68", "3", None] * 3,
        }
    ).write_csv(data / kuairand.VIDEOS)
    return folder


def official_settings(folder: Path) -> Settings:
    return Settings(
        home=folder / "home",
        source="kuairand",
        kuairand_dir=write_official(folder / "KuaiRand-Pure", base_rows()),
        first_day=FIRST,
        last_day=LAST,
        max_quarantine_share=0.05,
        threads=2,
    )


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return official_settings(tmp_path)


@pytest.fixture
def lake(settings: Settings) -> Iterator[Lake]:
    with Lake(settings) as opened:
        yield opened


@pytest.fixture(scope="module")
def landed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    """The lake of the base rows, for tests that only read."""
    settings = official_settings(tmp_path_factory.mktemp("kuairand"))
    with Lake(settings) as opened:
        assert sum(r.rows_quarantined for r in land(settings, opened)) == 0
        yield opened


def land(settings: Settings, lake: Lake, day: date | None = None) -> list[LandingReport]:
    kuairand.write_landing(settings)
    days = settings.days(day or FIRST, day or LAST)
    return load_days(lake, settings, days, {"homepage", "radio"})


@pytest.mark.slow
def test_tabs_become_source_and_surfaces_with_the_labels_of_the_log(landed: Lake) -> None:
    rows = pl.DataFrame(base_rows())
    app = rows.filter(pl.col("tab").is_in([0, 2, 4, 6]))
    by_tab = dict(app.group_by("tab").len().iter_rows())
    exposures = landed.sql("select surface, container_id, count(*) n from landing.exposures group by all").to_pylist()
    assert {r["container_id"]: r["n"] for r in exposures} == {str(tab): n for tab, n in by_tab.items()}
    assert all((r["surface"] == "radio") == (r["container_id"] == "0") for r in exposures)
    source = rows.filter(pl.col("tab") == 1)
    (n, clicks, seconds, continued, likes) = landed.connection.execute(
        "select count(*), count_if(clicked), sum(watched_s), count_if(continued), count_if(liked) "
        "from landing.source_impressions"
    ).fetchall()[0]
    assert (n, clicks, continued, likes) == (
        source.height,
        source["is_click"].sum(),
        source["long_view"].sum(),
        source["is_like"].sum(),
    )
    assert seconds == pytest.approx(source["play_time_ms"].sum() / 1000)
    # One listen per clicked exposure, in the exposure's session, with its own seconds.
    (listens, played) = landed.connection.execute(
        "select count(*), sum(l.played_s) from landing.listens l join landing.exposures e "
        "on l.exposure_id = e.exposure_id and l.session_id = e.session_id and l.ts = e.ts and l.item_id = e.item_id"
    ).fetchall()[0]
    assert listens == app["is_click"].sum()
    assert played == pytest.approx(app["play_time_ms"].sum() / 1000)
    outcomes = landed.sql(
        "select value, count(*) n from landing.outcomes where name = 'engagement' group by 1"
    ).to_pylist()
    radio = app.filter(pl.col("tab") == 0)
    assert {r["value"]: r["n"] for r in outcomes} == dict(
        radio.group_by(pl.col("long_view").cast(pl.Float64)).len().iter_rows()
    )


@pytest.mark.slow
def test_a_day_is_a_day_of_chinas_clock(landed: Lake) -> None:
    local = pl.DataFrame(base_rows()).filter(pl.col("tab") == 1).group_by("date").len().sort("date")["len"].to_list()
    days = landed.sql(
        "select day, count(*) n, count_if(ts::date <> day) wrong, min(hour(ts)) h from landing.source_impressions "
        "group by day order by day"
    ).to_pylist()
    assert [(r["day"], r["n"], r["wrong"]) for r in days] == [
        (FIRST + timedelta(days=i), n, 0) for i, n in enumerate(local)
    ]
    assert {r["h"] for r in days} == {0}


@pytest.mark.slow
def test_profiles_know_only_the_seven_days_before(landed: Lake) -> None:
    source = pl.DataFrame(base_rows()).filter(pl.col("tab") == 1)
    for offset in range(5):
        day = FIRST + timedelta(days=offset)
        before = source.filter(pl.col("date") < int(day.strftime("%Y%m%d")))
        for table, key in (("source_user_profiles", "user_id"), ("source_item_profiles", "video_id")):
            profiles = landed.sql(f"select * from landing.{table} where day = ?", [day]).to_pylist()
            for row in profiles:
                past = before.filter(pl.col(key) == int(row[f"source_{key.replace('video', 'item')}"]))
                assert row["impressions_7d"] == past.height
                assert row["clicks_7d"] == past["is_click"].sum()
                assert row["watch_ms_7d"] == past["play_time_ms"].sum()
                assert row["likes_7d"] == past["is_like"].sum()
    young = landed.sql(
        "select day from landing.source_item_profiles where source_item_id = '8' order by day"
    ).to_pylist()
    assert young[0]["day"] == date(2022, 4, 21)
    tenure = landed.sql("select tenure_days from landing.source_user_profiles where source_user_id = '0' order by day")
    assert tenure.column(0).to_pylist() == [21, 22, 23, 24, 25]


def test_items_and_users_land_once_on_the_first_day(landed: Lake) -> None:
    items = landed.sql("select * from landing.items order by item_id").to_pylist()
    assert len(items) == 9
    assert {r["day"] for r in items} == {FIRST}
    assert (items[0]["genre"], items[2]["genre"], items[0]["creator_id"], items[0]["source_item_id"]) == (
        "39",
        None,
        "7",
        "0",
    )
    assert (items[0]["duration_s"], items[8]["duration_s"]) == (20.0, None)
    users = landed.sql("select day, signed_up_at, source_user_id from landing.users order by user_id").to_pylist()
    assert users[0] == {"day": FIRST, "signed_up_at": datetime(2022, 3, 30), "source_user_id": "0"}


@pytest.mark.slow
def test_sessions_end_after_half_an_hour(settings: Settings, lake: Lake) -> None:
    noon = datetime(2022, 4, 20, 12, 0, 30)
    minutes = (0, 30, 60, 91)
    rows = [*base_rows(), *(log_row(5, i, noon + timedelta(minutes=m), 2) for i, m in enumerate(minutes))]
    rows = [r for r in rows if r["user_id"] == 5]
    write_official(the(Path, settings.kuairand_dir), rows)
    land(settings, lake, FIRST)
    found = lake.sql(
        "select ts, session_id from landing.exposures where ts between ? and ? order by ts",
        [noon, noon + timedelta(minutes=95)],
    ).to_pylist()
    first, second = found[0]["session_id"], found[3]["session_id"]
    assert [r["session_id"] for r in found] == [first, first, first, second]
    assert first != second


@pytest.mark.slow
def test_repeats_of_one_event_are_duplicates_and_repeats_with_other_labels_conflict(
    settings: Settings, lake: Lake
) -> None:
    moment = datetime(2022, 4, 23, 9, 59, 59)
    clicked = {"is_click": 1, "play_time_ms": 5_000}
    rows = [
        *base_rows(),
        log_row(1, 1, moment, 6, **clicked),
        log_row(1, 1, moment, 6, **clicked) | {"hourmin": 1000},
        log_row(2, 2, moment, 6, **clicked),
        log_row(2, 2, moment, 6, is_click=1, play_time_ms=9_000, long_view=1),
        log_row(3, 3, moment, 0, **clicked),
        log_row(3, 3, moment, 0),
    ]
    write_official(the(Path, settings.kuairand_dir), rows)
    settings = settings.model_copy(update={"max_quarantine_share": 0.5})
    reports = {r.table: r for r in land(settings, lake, moment.date())}
    assert reports["exposures"].reasons == {"conflicting id": 4, "duplicate": 1}
    assert reports["listens"].reasons == {"conflicting id": 2, "duplicate": 1}
    assert reports["outcomes"].reasons == {"duplicate": 1}
    kept = lake.sql("select user_id from landing.exposures where ts = ?", [moment]).to_pylist()
    assert kept == [{"user_id": "1"}]


@pytest.mark.slow
def test_row_order_the_random_log_and_a_second_run_change_nothing(settings: Settings, lake: Lake) -> None:
    land(settings, lake)
    tables = ("exposures", "listens", "outcomes", "items", "users", "source_impressions", "source_user_profiles")
    before = {t: lake.content_hash(f"landing.{t}") for t in tables}
    write_official(the(Path, settings.kuairand_dir), base_rows(), seed=3)
    random = pl.DataFrame([log_row(1, 1, datetime(2022, 4, 23, 5), 1, is_rand=1)]).select(LOG_COLUMNS)
    random.write_csv(the(Path, settings.kuairand_dir) / "data" / "log_random_4_22_to_5_08_pure.csv")
    (the(Path, settings.kuairand_dir) / "data" / "video_features_statistic_pure.csv").write_text("never,read\n\xff")
    steps: list[Step] = []
    kuairand.write_landing(settings, steps.append)
    assert "log_random_4_22_to_5_08_pure.csv is not landed" in steps[0].line
    assert [(step.done, step.total) for step in steps[1:]] == [(day, 5) for day in range(1, 6)]
    load_days(lake, settings, settings.days(FIRST, LAST), {"homepage", "radio"})
    assert {t: lake.content_hash(f"landing.{t}") for t in tables} == before


def _random_log(settings: Settings) -> pl.DataFrame:
    """Generated rows of the official format: each user sees random videos of the homepage and of the source."""
    rows = [
        log_row(
            user, video, datetime(2022, 4, 23, 5, user, video), tab, is_rand=1, is_click=int((user + video) % 3 == 0)
        )
        for user in range(6)
        for video in range(5)
        for tab in ((2,) if video else (1,))
    ]
    log = pl.DataFrame(rows).select(LOG_COLUMNS)
    log.write_csv(the(Path, settings.kuairand_dir) / "data" / kuairand.RANDOM_LOG)
    return log


@pytest.mark.slow
def test_the_random_log_is_landed_where_it_is_asked_for_and_says_what_any_ranker_would_earn(
    settings: Settings, lake: Lake
) -> None:
    asked = settings.model_copy(update={"kuairand_random": True})
    with pytest.raises(LandingError, match=r"log_random_4_22_to_5_08_pure\.csv is missing"):
        kuairand.write_landing(asked)
    log = _random_log(settings)
    day = date(2022, 4, 23)
    land(asked, lake, day)
    random = lake.sql("select exposure_id from landing.exposures where random").to_pylist()
    app = log.filter(pl.col("tab") == 2)
    assert len(random) == app.height == 24
    source = lake.sql("select count(*) as n from landing.source_impressions").to_pylist()
    assert (
        source[0]["n"] == pl.DataFrame(base_rows()).filter((pl.col("tab") == 1) & (pl.col("date") == 20220423)).height
    )
    lake.connection.execute(
        "create table features.stg_exposures as select day, hash(exposure_id) >> 1 as exposure_id, user_id, "
        "session_id, list_id, propensity, random from landing.exposures where surface = 'homepage'"
    )
    lake.connection.execute(
        "create table features.examples_homepage as select shown.day, hash(exposure_id) >> 1 as exposure_id, "
        "shown.user_id, (listens.exposure_id is not null)::double as label "
        "from landing.exposures as shown left join landing.listens using (exposure_id) where surface = 'homepage'"
    )
    found = present(read_logged(lake, load_surface(EXAMPLES / "kuairand" / "surfaces" / "homepage.yaml"), [day]))
    assert (found.random, found.alone, len(set(found.lists))) == (24, 0, 6), "a user's random videos are a list"
    rows = lake.sql("select user_id, label from features.examples_homepage order by exposure_id")
    weights = UserWeights(rows["user_id"].to_numpy(), seed=1, replicates=20)
    labels, codes = rows["label"].to_numpy()[found.rows], weights.codes[found.rows]
    even = estimate(weights, codes, labels, first_choice(np.zeros(24), found.lists), found)
    assert even.value == pytest.approx(app["is_click"].mean())
    knowing = estimate(weights, codes, labels, first_choice(labels, found.lists), found)
    assert knowing.value == pytest.approx(app.group_by("user_id").agg(pl.col("is_click").max())["is_click"].mean())


def test_only_the_days_of_the_settings_are_written(settings: Settings) -> None:
    narrow = settings.model_copy(update={"first_day": date(2022, 4, 22), "last_day": date(2022, 4, 23)})
    (the(Path, settings.kuairand_dir) / "data" / EARLY).unlink()
    assert kuairand.log_days(the(Path, settings.kuairand_dir)) == (date(2022, 4, 22), LAST)
    kuairand.write_landing(narrow)
    folders = {path.name for path in (the(Path, settings.landing_dir) / "exposures").iterdir()}
    assert folders == {"day=2022-04-22", "day=2022-04-23"}
    assert all((path / "_SUCCESS").exists() for path in (the(Path, settings.landing_dir) / "exposures").iterdir())


@pytest.mark.parametrize("name", [EARLY, LATE, kuairand.USERS, kuairand.VIDEOS])
def test_a_missing_file_is_named(settings: Settings, name: str) -> None:
    (the(Path, settings.kuairand_dir) / "data" / name).unlink()
    with pytest.raises(LandingError, match=name):
        kuairand.write_landing(settings)


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        (LATE, "long_view", "long", "lacks column 'long_view'"),
        (LATE, ",20220423,", ",20220423,noon", "cannot read"),
        (kuairand.USERS, "\n1,", "\n0,", "repeated or null user_id"),
        (kuairand.VIDEOS, "2022-04-21", "last year", "last year"),
    ],
)
def test_a_damaged_file_is_named(settings: Settings, name: str, old: str, new: str, words: str) -> None:
    path = the(Path, settings.kuairand_dir) / "data" / name
    path.write_text(path.read_text().replace(old, new).replace("noon0,", "noon0,noon,", 1))
    with pytest.raises(LandingError, match=words) as raised:
        kuairand.write_landing(settings)
    assert str(path) in str(raised.value)


def test_wrong_settings_are_explained(settings: Settings) -> None:
    with pytest.raises(LandingError, match="kuairand_dir is not set"):
        kuairand.write_landing(settings.model_copy(update={"kuairand_dir": None}))
    later = settings.model_copy(update={"first_day": date(2026, 1, 1), "last_day": None})
    with pytest.raises(LandingError, match="they hold 2022-04-20 to 2022-04-24"):
        kuairand.write_landing(later)
    with pytest.raises(LandingError, match=r"names \[1\]; the app's tabs are \[0, 2, 4, 6\]"):
        kuairand.write_landing(settings.model_copy(update={"kuairand_homepage_tabs": (1, 4)}))


@pytest.mark.slow
def test_the_homepage_has_the_tabs_it_is_given_and_the_radio_the_others(settings: Settings, lake: Lake) -> None:
    land(settings.model_copy(update={"kuairand_homepage_tabs": (0, 4)}), lake)
    found = lake.sql("select distinct surface, container_id from landing.exposures").to_pylist()
    tabs = {str(tab) for tab in pl.DataFrame(base_rows())["tab"].unique() if tab in kuairand.APP_TABS}
    assert {r["container_id"] for r in found if r["surface"] == "homepage"} == tabs & {"0", "4"} != set()
    assert {r["container_id"] for r in found if r["surface"] == "radio"} == tabs & {"2", "6"} != set()
    (strays,) = lake.connection.execute(
        "select count(*) from landing.outcomes o join landing.exposures e on o.exposure_id = e.exposure_id "
        "where e.surface <> 'radio'"
    ).fetchall()[0]
    assert strays == 0


def test_trail_of_a_clicked_row_is_its_own_play_time(landed: Lake) -> None:
    clicked = pl.DataFrame(base_rows()).filter(pl.col("tab").is_in([2, 4, 6]) & (pl.col("is_click") == 1))
    expected = {
        f"{r['user_id']}-{r['video_id']}-{r['time_ms']}": math.log1p(r["play_time_ms"] / 1000)
        for r in clicked.iter_rows(named=True)
    }
    # Seconds played in the session from the listen until the next clicked exposure.
    found = landed.sql(
        """
        with starts as (
            select e.exposure_id, e.session_id, e.surface, l.ts,
                lead(l.ts) over (partition by e.session_id order by l.ts) as until
            from landing.exposures e join landing.listens l on l.exposure_id = e.exposure_id
        )
        select s.exposure_id, ln(1 + sum(l.played_s)) as trail
        from starts s join landing.listens l
            on l.session_id = s.session_id and l.ts >= s.ts and (s.until is null or l.ts < s.until)
        where s.surface = 'homepage' group by 1
        """
    ).to_pylist()
    assert {r["exposure_id"]: pytest.approx(r["trail"]) for r in found} == expected
