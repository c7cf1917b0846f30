"""A lake with landed events of a small world, in which sessions and playbacks cross midnight.

Some playbacks end at the very time of an exposure: after no second, or when the session's next item is shown.
"""

import shutil
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from assets.manifest import PARSED, parse_project
from ml.features.build import Stage, build_arguments, run_dbt
from ml.features.projects import DBT_PROJECT_DIR, project_hash
from ml.foundation.lake import Lake
from ml.foundation.settings import PROJECT_ROOT, Settings
from ml.surfaces.files import load_surfaces
from tests.support.once import Once

FIRST_DAY = date(2026, 1, 1)
_TYPES = {"string": "varchar", "int64": "bigint", "float64": "double", "bool": "boolean", "timestamp": "timestamp"}

_UNIT = "((hash({0}, '{1}') % 1000003)::double / 1000003)"
_VECTOR = "[(hash({0}, '{1}', k) % 2001)::float / 1000 - 1 for k in range(8)]::float[]"


def _unit(key: str, salt: str) -> str:
    """SQL of a pseudo-random number in [0, 1), a function of key and salt."""
    return _UNIT.format(key, salt)


def create_landing_tables(lake: Lake) -> None:
    contract = yaml.safe_load((PROJECT_ROOT / "ml" / "landing" / "contract.yaml").read_text(encoding="utf-8"))
    for name, table in contract["tables"].items():
        columns = [f'"{c}" {_TYPES.get(spec["type"], "float[]")}' for c, spec in table["columns"].items()]
        lake.connection.execute(f"create table lake.landing.{name} ({', '.join(columns)}, day date)")
        lake.connection.execute(f"alter table lake.landing.{name} set partitioned by (day)")


def land_world(
    lake: Lake, days: int, *, users: int = 60, items: int = 80, sessions: int = 60, source_rows: int = 400
) -> None:
    """Fill the landing tables with ``days`` days from FIRST_DAY on; ``sessions`` and ``source_rows`` are per day."""
    run = lake.connection.execute
    start = f"timestamp '{FIRST_DAY} 00:00:00'"
    last = f"date '{FIRST_DAY + timedelta(days=days - 1)}'"
    creators = max(items // 5, 2)
    # A third of the sessions starts in the last half hour of the day, so that many cross midnight.
    run(f"""create temp table sessions as select s, 's' || s as session_id,
        'u' || (hash(s, 'user') % {users}) as user_id,
        case when {_unit("s", "surface")} < 0.65 then 'homepage' else 'radio' end as surface,
        {start} + interval 1 day * (s // {sessions}) + interval 1 second * (
            case when {_unit("s", "late")} < 0.33 then 84600 + 1700 * {_unit("s", "at")}
            else 86000 * {_unit("s", "at")} end
        )::bigint as started_at
        from range({days * sessions}) as t (s)""")
    run(f"""create temp table shown as select s * 10 + j as e, s, j, session_id, user_id, surface,
        'i' || floor({items} * pow({_unit("s * 10 + j", "item")}, 1.7))::bigint as item_id,
        started_at + interval 1 second * (j * 100 + 1) as ts
        from sessions, range(8) as t (j)""")
    run(f"""insert into lake.landing.exposures by name select 'e' || e as exposure_id, ts, surface, user_id, session_id,
        item_id, case when surface = 'homepage' then 'shelf' || (j // 4) end as container_id,
        case when surface = 'homepage' then j // 4 end as "row", j % 4 as "column",
        case when surface = 'radio' then 'i' || (s % {items}) end as seed_item_id, ts::date as day
        from shown where ts::date <= {last}""")
    run(f"""insert into lake.landing.listens by name select 'l' || e as listen_id, started as ts, user_id, session_id,
        case when e % 17 = 0 then 'i' || (e % {items}) else item_id end as item_id,
        case when e % 17 <> 0 then 'e' || e end as exposure_id,
        case j % 5 when 0 then 0 when 1 then 95 else round(300 * {_unit("e", "played")}, 3) end as played_s,
        ['completed', 'skipped', 'stopped'][1 + (hash(e, 'outcome') % 3)::integer] as outcome,
        case when e % 11 = 0 then 'like' end as feedback, started::date as day
        from (select *, ts + to_seconds(case j % 5 when 0 then 0 else 5 end) as started from shown)
        where {_unit("e", "click")} < case when surface = 'homepage' then 0.15 else 0.8 end
        and started::date <= {last}""")
    run(f"""insert into lake.landing.outcomes by name select 'e' || e as exposure_id, 'trail' as name,
        10 * {_unit("e", "value")} as value, ts + interval 1 hour as ts, (ts + interval 1 hour)::date as day
        from shown where e % 29 = 0 and surface = 'homepage' and (ts + interval 1 hour)::date <= {last}""")
    run(f"""insert into lake.landing.items by name select 'i' || i as item_id,
        'c' || ((i + version) % {creators}) as creator_id, 'g' || (i % 7) as genre, 20 + (i * 37) % 400 as duration_s,
        {start} + interval 1 hour * (i % 50 - 40) as released_at,
        case when i % 10 > 0 then 'v' || i end as source_item_id,
        case when i % 13 > 0 then {_VECTOR.format("i", "content")} end as content_embedding,
        (date '{FIRST_DAY}' + (version * 3 + case when i % 5 = 0 then i // 5 % 4 else 0 end)::integer) as day
        from range({items}) as t (i), range(2) as v (version)
        where version = 0 or i % 6 = 0""")
    run(f"""insert into lake.landing.users by name select 'u' || u as user_id, 'k' || (u % 5) as country,
        case when u % 9 > 0 then 'b' || (u % 4) end as age_band,
        {start} + interval 1 hour * ((u * 7919) % 2000 - 1990) as signed_up_at,
        case when u % 10 > 0 then 'x' || u end as source_user_id, (date '{FIRST_DAY}' + (u % 2)::integer) as day
        from range({users}) as t (u)""")
    run(f"""insert into lake.landing.source_user_profiles by name select 'x' || u as source_user_id,
        'seg' || (hash(u, d) % 3) as segment, 100 + u + d as tenure_days,
        (hash(u, d, 'n') % 90)::bigint as impressions_7d,
        (hash(u, d, 'c') % 40)::bigint as clicks_7d, (hash(u, d, 'w') % 900000)::bigint as watch_ms_7d,
        (hash(u, d, 'l') % 9)::bigint as likes_7d, {_VECTOR.format("u", "history")} as history_embedding,
        (date '{FIRST_DAY}' + d::integer) as day from range({2 * users}) as t (u), range({days}) as v (d)""")
    run(f"""insert into lake.landing.source_item_profiles by name select 'v' || i as source_item_id,
        'ch' || (i % {creators}) as source_creator_id, 'cat' || (i % 4) as category, 30 + (i * 53) % 600 as duration_s,
        i % 400 + d as age_days, (hash(i, d, 'n') % 900)::bigint as impressions_7d,
        (hash(i, d, 'c') % 300)::bigint as clicks_7d, (hash(i, d, 'w') % 9000000)::bigint as watch_ms_7d,
        (hash(i, d, 'l') % 50)::bigint as likes_7d, {_VECTOR.format("i", "content")} as content_embedding,
        (date '{FIRST_DAY}' + d::integer) as day from range({3 * items}) as t (i), range({days}) as v (d)""")
    run(f"""insert into lake.landing.source_impressions by name select 'p' || n as impression_id,
        {start} + to_microseconds(n * {86_400_000_000 // source_rows}) as ts,
        'x' || (hash(n, 'user') % {2 * users}) as source_user_id,
        'v' || floor({3 * items} * pow({_unit("n", "item")}, 2))::bigint as source_item_id,
        ['home', 'next', 'search'][1 + (n % 3)] as page, n % 12 as position,
        ['tv', 'phone', 'web'][1 + (n % 3)] as device,
        ['wifi', 'cell'][1 + (n % 2)] as network, n % 5 = 0 as autoplay, n % 4 = 0 as subscribed,
        n % 20 as session_depth, round(600 * {_unit("n", "depth")}, 1) as session_watch_s,
        round(200 * {_unit("n", "visit")}, 1) as hours_since_visit,
        n % 4 = 1 as clicked, case when n % 4 = 1 then round(500 * {_unit("n", "watch")}, 1) end as watched_s,
        case when n % 4 = 1 then n % 8 = 1 end as continued, case when n % 4 = 1 then n % 40 = 1 end as liked,
        (date '{FIRST_DAY}' + (n // {source_rows})::integer) as day
        from range({days * source_rows}) as t (n)""")
    run(f"""insert into lake.landing.teacher_scores by name select 'e' || e as exposure_id, 'click' as task,
        {_unit("e", "score")} as score, '1' as teacher_version, ts::date as day
        from shown where e % 3 = 0 and ts::date <= {last}""")
    run("drop table sessions")
    run("drop table shown")


@pytest.fixture(scope="session")
def parsed(once: Once) -> Callable[[Settings], Path]:
    """A function that returns the project parsed, as the product gives it to dbt: each state once for all workers."""

    def of(settings: Settings) -> Path:
        def make(folder: Path) -> None:
            shutil.copytree(parse_project(settings).parent, folder)

        return once(f"parsed-{project_hash(settings)}", make) / PARSED

    return of


@pytest.fixture(scope="session")
def build_days(parsed: Callable[[Settings], Path]) -> Callable[..., None]:
    """Return a function that builds (and tests) the stages for the days [from_day, to_day]."""

    def build(
        settings: Settings,
        from_day: date,
        to_day: date,
        *,
        stages: tuple[Stage, ...] = ("base", "ranking"),
        tests: bool = False,
        project_dir: Path = DBT_PROJECT_DIR,
    ) -> None:
        surfaces = load_surfaces(settings)
        arguments = build_arguments(settings, surfaces, stages, from_day, to_day)
        if not tests:
            arguments += ["--exclude-resource-types", "test"]
        known = parsed(settings) if project_dir == DBT_PROJECT_DIR else None
        run_dbt(settings, arguments, project_dir=project_dir, parsed=known)

    return build


@pytest.fixture(scope="session")
def empty_home(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Settings]:
    """Return a function that makes a home whose landing tables are empty."""

    def make() -> Settings:
        settings = _settings(tmp_path_factory.mktemp("home"))
        with Lake(settings) as lake:
            create_landing_tables(lake)
        return settings

    return make


def _settings(folder: Path) -> Settings:
    return Settings(home=folder, first_day=FIRST_DAY, feature_window_days=3, threads=1, memory_limit="1GB")


@pytest.fixture(scope="session")
def home(once: Once, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Settings]:
    """Return a function that makes a home with a landed world of some days."""

    def land(folder: Path, days: int) -> None:
        with Lake(_settings(folder)) as lake:
            create_landing_tables(lake)
            land_world(lake, days)

    def make(days: int) -> Settings:
        landed = once(f"landed-{days}", lambda folder: land(folder, days))
        return _settings(shutil.copytree(landed, tmp_path_factory.mktemp("home") / "home"))

    return make


@pytest.fixture(scope="session")
def built(
    once: Once,
    home: Callable[..., Settings],
    build_days: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> SimpleNamespace:
    """A home of 6 days that were built and tested in one range."""
    days = [FIRST_DAY + timedelta(days=i) for i in range(6)]

    def make(folder: Path) -> None:
        shutil.copytree(home(len(days)).home, folder)
        build_days(_settings(folder), days[0], days[-1], tests=True)

    folder = shutil.copytree(once("built", make), tmp_path_factory.mktemp("built") / "home")
    return SimpleNamespace(settings=_settings(folder), days=days)
