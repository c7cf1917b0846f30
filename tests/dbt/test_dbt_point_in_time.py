"""Features use only what was known before the exposure; labels only their window.

The tests know no column but keys, timestamps and the labels that the surfaces name: they delete the future, rebuild and
compare. That they can fail is shown on a copy of the app in which four leaks are planted.
"""

import shutil
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from ml.features.tables import feature_tables
from ml.foundation.lake import Lake, attach_options, attach_path
from ml.foundation.settings import EXAMPLES, Settings
from ml.surfaces.files import load_surfaces

CUT = 3
"""Index of the day d that is rebuilt."""

ENDED = "l.ts + to_milliseconds(round(l.played_s * 1000)::bigint)"


def copy_world(source: Settings, target: Settings, conditions: dict[str, str], known_until: str) -> None:
    """Copy the landed rows that meet the condition of their table.

    What a listen turned into at ``known_until`` (SQL) or later is replaced by something else.
    """
    with Lake(source) as lake:
        options = ", ".join(f"{k} '{v}'" for k, v in attach_options(target).items())
        lake.connection.execute(f"attach '{attach_path(target)}' as copy ({options})")
        for table, condition in conditions.items():
            query = f"select l.* from lake.landing.{table} as l where {condition}"
            if table == "listens":
                query = f"""select l.* exclude (known_until) replace (
                    case when {ENDED} < known_until then played_s else played_s + 100 end as played_s,
                    case when {ENDED} < known_until then outcome
                    when outcome = 'skipped' then 'completed' else 'skipped' end as outcome,
                    case when {ENDED} < known_until then feedback end as feedback
                ) from (
                    select l.*, {known_until} as known_until from lake.landing.listens as l where {condition}
                ) as l"""
            lake.connection.execute(f"insert into copy.landing.{table} by name {query}")


def without_future(source: Settings, target: Settings, day: date) -> None:
    """Copy what was known at 00:00 of ``day``, and for one sampled exposure of some users what was known at its time.

    Nothing of other users on the day is kept, and of a sampled user nothing after the sampled exposure.
    """
    midnight = f"timestamp '{day} 00:00:00'"
    sample = f"""(
        select
            user_id,
            arg_min(exposure_id, hash(exposure_id)) as exposure_id,
            arg_min(ts, hash(exposure_id)) as ts
        from lake.landing.exposures
        where day = '{day}' and hash(user_id) % 2 = 0
        group by user_id
    )"""
    so_far = f"(select s.ts from {sample} as s where s.user_id = l.user_id)"
    before = f"l.ts < coalesce({so_far}, {midnight})"
    conditions = {
        "exposures": f"{before} or l.ts < {midnight} or l.exposure_id in (select exposure_id from {sample})",
        "listens": f"{before} or l.ts < {midnight}",
        "outcomes": f"l.ts < {midnight}",
        "source_impressions": f"l.ts < {midnight}",
        **{table: f"l.day < '{day}'" for table in ("teacher_scores", "ranker_scores")},
        **{t: f"l.day <= '{day}'" for t in ("items", "users", "source_user_profiles", "source_item_profiles")},
    }
    copy_world(source, target, conditions, known_until=f"coalesce({so_far}, {midnight})")


def without_days_after(source: Settings, target: Settings, day: date) -> None:
    """Copy what was known at the end of ``day``."""
    events = ("exposures", "listens", "outcomes", "source_impressions")
    attributes = ("items", "users", "source_user_profiles", "source_item_profiles", "teacher_scores", "ranker_scores")
    end = f"timestamp '{day + timedelta(days=1)} 00:00:00'"
    conditions = {t: f"l.ts < {end}" for t in events} | {t: f"l.day <= '{day}'" for t in attributes}
    copy_world(source, target, conditions, known_until=end)


def changed_columns(reference: Settings, rebuilt: Settings, table: str, day: date, key: str) -> tuple[set[str], int]:
    """Return the columns in which rows of ``rebuilt`` differ from the row of the same key, and the rows compared."""

    def rows(settings: Settings) -> dict[int, dict[str, object]]:
        with Lake(settings) as lake:
            found = lake.sql(f"select * from features.{table} where day = ?", [day]).to_pylist()
        return {row[key]: row for row in found}

    before, after = rows(reference), rows(rebuilt)
    assert set(after) <= set(before), f"{table} has rows that were not there"
    return {c for k, row in after.items() for c in row if row[c] != before[k][c]}, len(after)


def exposures_of(settings: Settings, day: date) -> list[int]:
    """Return the ids of the exposures of ``day``."""
    with Lake(settings) as lake:
        found = lake.sql("select exposure_id from features.stg_exposures where day = ?", [day])
    return found["exposure_id"].to_pylist()


@pytest.fixture(scope="module")
def day(built: SimpleNamespace) -> date:
    return built.days[CUT]


@pytest.fixture(scope="module")
def present(
    built: SimpleNamespace, empty_home: Callable[[], Settings], build_days: Callable[..., None], day: date
) -> Settings:
    """A home that holds nothing later than day d (of sampled users: than one exposure), with d rebuilt."""
    settings = empty_home()
    without_future(built.settings, settings, day)
    build_days(settings, built.days[0], day)
    return settings


def test_inputs_of_an_exposure_do_not_change_when_its_future_is_deleted(
    built: SimpleNamespace, present: Settings, day: date
) -> None:
    compared = 0
    for name, surface in load_surfaces(built.settings).items():
        labels = {task.label for task in surface.tasks.values()}
        changed, rows = changed_columns(built.settings, present, f"examples_{name}", day, "exposure_id")
        assert changed <= labels
        assert changed_columns(built.settings, present, f"teacher_inputs_{name}", day, "exposure_id")[0] == set()
        compared += rows
    assert compared >= 50
    with Lake(built.settings) as full:
        own, others = full.connection.execute(
            """select
                count(*) filter (where listens.exposure_id = shown.exposure_id),
                count(*) filter (where listens.exposure_id is distinct from shown.exposure_id)
            from features.stg_exposures as shown inner join features.stg_listens as listens
            on shown.user_id = listens.user_id and shown.session_id = listens.session_id and shown.ts = listens.ended_at
            where list_contains(?, shown.exposure_id)""",
            [exposures_of(present, day)],
        ).fetchall()[0]
    assert own > 3 and others > 3, "some listens end at the time of a compared exposure"
    with Lake(present) as lake:
        empty, filled = lake.connection.execute(
            "select count(*) filter (where list_sum(session_outcomes) = 0), "
            "count(*) filter (where list_sum(session_outcomes) > 0) from features.examples_radio where day = ?",
            [day],
        ).fetchall()[0]
    assert empty > 3 and filled > 3


@pytest.mark.parametrize("table", feature_tables(Settings()))
def test_features_of_a_day_do_not_change_when_the_day_is_deleted(
    built: SimpleNamespace, present: Settings, day: date, table: str
) -> None:
    query = f"(select * from features.{table} where day = ?)"
    with Lake(built.settings) as full, Lake(present) as cut:
        assert cut.content_hash(query, [day]) == full.content_hash(query, [day])


def test_labels_do_not_change_when_everything_after_the_label_window_is_deleted(
    built: SimpleNamespace, empty_home: Callable[[], Settings], build_days: Callable[..., None], day: date
) -> None:
    settings = empty_home()
    without_days_after(built.settings, settings, day + timedelta(days=1))
    build_days(settings, built.days[0], day + timedelta(days=1))
    with Lake(built.settings) as full, Lake(settings) as cut:
        for name in load_surfaces(built.settings):
            query = f"(select * from features.examples_{name} where day = ?)"
            assert cut.content_hash(query, [day]) == full.content_hash(query, [day])


def test_a_longer_label_window_reads_so_many_days_and_no_more(
    built: SimpleNamespace, build_days: Callable[..., None], day: date, tmp_path: Path
) -> None:
    """What comes two days later is a label where two days count, and no input; what comes after changes nothing."""
    for name in load_surfaces(built.settings):
        content = {"extends": str(EXAMPLES / "simulator" / "surfaces" / f"{name}.yaml"), "label_window_days": 2}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    home = shutil.copytree(built.settings.home, tmp_path / "home")
    settings = built.settings.model_copy(update={"home": home, "surfaces_dir": tmp_path})
    with Lake(settings) as lake:
        for after in (2, 3):
            lake.connection.execute(
                f"""insert into lake.features.stg_outcomes by name select day + {after} as day, exposure_id,
                landed_exposure_id, 'trail' as name, {after}.5 as value, ts + interval {after} day as ts
                from lake.features.stg_exposures where day = ? and surface = 'homepage' and exposure_id % 3 = 0""",
                [day],
            )

    def rebuilt(known: int) -> str:
        """Delete all that came more than ``known`` days later, build the day again and return what it holds."""
        with Lake(settings) as lake:
            for table in ("exposures", "listens", "outcomes"):
                lake.connection.execute(
                    f"delete from lake.features.stg_{table} where day > ?", [day + timedelta(days=known)]
                )
        build_days(settings, day, day, stages=("ranking",))
        with Lake(settings) as lake:
            return lake.content_hash("(select * from features.examples_homepage where day = ?)", [day])[1]

    everything = rebuilt(9)
    changed, _ = changed_columns(built.settings, settings, "examples_homepage", day, "exposure_id")
    assert changed == {"label_trail"}
    assert rebuilt(2) == everything
    assert rebuilt(1) != everything


LEAKS = {
    "same_day_item_rate": """(
        select avg((l.exposure_id is not null)::integer) from {{ ref('stg_exposures') }} as e
        left join (select distinct exposure_id from {{ ref('stg_listens') }}) as l on e.exposure_id = l.exposure_id
        where e.day = inputs.day and e.item_id = inputs.item_id
    )""",
    "own_label": "labels.ctr",
    "next_day_count": """(
        select count(*) from {{ ref('stg_exposures') }} as e where e.day = inputs.day + 1 and e.user_id = inputs.user_id
    )""",
    "undelayed_user_rate": "avg(labels.ctr) over (partition by inputs.user_id order by inputs.ts)",
}


@pytest.fixture(scope="module")
def leaking(
    built: SimpleNamespace,
    empty_home: Callable[[], Settings],
    build_days: Callable[..., None],
    day: date,
    tmp_path_factory: pytest.TempPathFactory,
) -> set[str]:
    """Columns that the comparison finds changed when a copy of the app with all leaks planted builds the day."""
    app = shutil.copytree(EXAMPLES / "simulator", tmp_path_factory.mktemp("app") / "leaking")
    model = app / "models" / "surfaces" / "homepage" / "examples_homepage.sql"
    planted = "".join(f"    {sql} as {name},\n" for name, sql in LEAKS.items())
    original = model.read_text(encoding="utf-8")
    assert original.count("    inputs.*,\n") == 1
    model.write_text(original.replace("    inputs.*,\n", f"    inputs.*,\n{planted}"), encoding="utf-8")

    full, cut = empty_home(), empty_home()
    without_days_after(built.settings, full, built.days[-1])
    without_future(built.settings, cut, day)
    for settings, last in ((full, day + timedelta(days=1)), (cut, day)):
        build_days(settings.model_copy(update={"app": app}), built.days[0], last)
    return changed_columns(full, cut, "examples_homepage", day, "exposure_id")[0]


@pytest.mark.parametrize("leak", LEAKS)
def test_a_planted_leak_is_found(leaking: set[str], leak: str) -> None:
    assert leak in leaking


def test_only_the_planted_leaks_and_the_labels_are_found(leaking: set[str], built: SimpleNamespace) -> None:
    labels = {task.label for task in load_surfaces(built.settings)["homepage"].tasks.values()}
    assert leaking - labels == set(LEAKS)
