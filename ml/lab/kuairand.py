"""KuaiRand-Pure (Gao et al., CIKM 2022; CC BY-SA 4.0) in its official layout -> landing files.

``<kuairand_dir>/data/`` holds ``log_standard_4_08_to_4_21_pure.csv`` and ``log_standard_4_22_to_5_08_pure.csv`` (a
log is needed when the wanted days reach into it), ``user_features_pure.csv`` and ``video_features_basic_pure.csv``.
The official ``video_features_statistic_pure.csv`` holds averages over the whole month and is never read.

**Random exposures.** ``log_random_4_22_to_5_08_pure.csv`` holds exposures whose video was drawn from a pool alike, in
place of what the ranker had chosen. It is landed where ``kuairand_random`` says so, with ``random``: off-policy
estimates come from these rows. They are exposures like any other then, so that students learn from them too; without
the setting only what the ranker chose is landed. Those of tab 1 are left out, since the source's log is the ranker's.

**Clock.** ``time_ms`` is epoch milliseconds and the dataset's dates are China Standard Time (UTC+8). The app's clock
is therefore China's: every timestamp is local time, landed as if it were UTC, so that a day of the landing zone is a
day of the users and of the dataset. In UTC the first and last day of any cut of the logs would be halves (2,408 and
15,715 rows instead of 14,650 and 18,404 in the nine days from 2022-04-25). The dataset's own ``date`` comes from a
later, hourly stamp (``hourmin``) and differs from the date of ``time_ms`` in 0.8 % of the rows around midnight;
``time_ms`` decides. Rows of days outside ``first_day`` to ``last_day`` are not landed.

**Source platform** = tab 1. An impression's ``continued`` is ``long_view``. Profiles of day d count the tab-1 rows of
the seven days before d. ``register_days`` counts to 2022-05-09, the day after the last log (the latest reference day
under which nobody is seen before registering), so tenure is taken back to d. ``user_active_degree`` is a snapshot of
unknown date.

**App** = tabs 0, 2, 4, 6. ``kuairand_homepage_tabs`` (2, 4, 6) are surface ``homepage``, the others ``radio``; the tab
is ``container_id``. A session ends after
30 minutes without an exposure and is named by its first. A clicked exposure has one listen, so ``trail`` is the log
of its own seconds: completed if the whole video was played, skipped below ``SKIP_SECONDS``, else stopped. A radio
exposure has the outcome ``engagement`` = ``long_view``, clicked or not. All videos and users are landed on
``first_day``.

**Repeats.** Some (user, video, time) stand twice. Those that differ only in ``hourmin`` are one event logged twice:
duplicates. Those with another click, play time or ``long_view`` get different ``record_hash`` and conflict.
"""

from datetime import date
from pathlib import Path

import duckdb

from ml.foundation.lake import escaped
from ml.foundation.progress import Progress, Step, silent
from ml.foundation.settings import Settings
from ml.landing.contract import LandingError
from ml.landing.patterns import SUCCESS
from ml.landing.readiness import table_folder

SKIP_SECONDS = 3.0
SESSION_GAP_MINUTES = 30
MAX_PLAYED_SECONDS = 86_400
REGISTER_REFERENCE = date(2022, 5, 9)
"""Day up to which ``register_days`` counts."""
SOURCE_TAB, APP_TABS = 1, (0, 2, 4, 6)

LOGS = {
    "log_standard_4_08_to_4_21_pure.csv": (date(2022, 4, 8), date(2022, 4, 21)),
    "log_standard_4_22_to_5_08_pure.csv": (date(2022, 4, 22), date(2022, 5, 8)),
}
"""Official logs and the days that they cover."""
RANDOM_LOG, RANDOM_DAYS = "log_random_4_22_to_5_08_pure.csv", (date(2022, 4, 22), date(2022, 5, 8))
"""Official log of random exposures."""
USERS, VIDEOS = "user_features_pure.csv", "video_features_basic_pure.csv"
_LOG_COLUMNS = {
    "user_id": "BIGINT",
    "video_id": "BIGINT",
    "time_ms": "BIGINT",
    "is_click": "TINYINT",
    "is_like": "TINYINT",
    "is_hate": "TINYINT",
    "long_view": "TINYINT",
    "play_time_ms": "BIGINT",
    "duration_ms": "BIGINT",
    "is_rand": "TINYINT",
    "tab": "SMALLINT",
}
_USER_COLUMNS = {"user_id": "BIGINT", "user_active_degree": "VARCHAR", "register_days": "BIGINT"}
_VIDEO_COLUMNS = {
    "video_id": "BIGINT",
    "author_id": "BIGINT",
    "upload_dt": "DATE",
    "video_duration": "DOUBLE",
    "tag": "VARCHAR",
}

_CLOCK = "make_timestamp(time_ms * 1000) + interval 8 hour"

_APP = f"""
create table app as
with marked as (
    select
        *,
        coalesce(ts - lag(ts) over by_user > interval {SESSION_GAP_MINUTES} minute, true)::int as starts
    from log
    where tab in {APP_TABS}
    window by_user as (partition by user_id order by ts, video_id)
), numbered as (
    select *, sum(starts) over (partition by user_id order by ts, video_id rows unbounded preceding) as session
    from marked
)
select
    * exclude (starts, session),
    concat_ws('-', user_id, video_id, time_ms) as exposure_id,
    concat_ws('-', user_id, first_value(time_ms) over by_session) as session_id,
    if(list_contains($homepage_tabs, tab), 'homepage', 'radio') as surface,
    least(play_time_ms / 1000, {MAX_PLAYED_SECONDS}) as played_s
from numbered
window by_session as (partition by user_id, session order by ts, video_id)
"""

_SOURCE = f"""
create table source_daily as
select
    day,
    user_id,
    video_id,
    count(*) as impressions,
    sum(is_click) as clicks,
    sum(if(is_click = 1, play_time_ms, 0)) as watch_ms,
    sum(is_like) as likes
from log
where tab = {SOURCE_TAB} and not random
group by all;
"""

_COUNTS = ", ".join(
    f"coalesce({name}, 0)::bigint as {name}_7d" for name in ("impressions", "clicks", "watch_ms", "likes")
)
_SUMS = ", ".join(f"sum({name}) as {name}" for name in ("impressions", "clicks", "watch_ms", "likes"))
_TRAILING = "select {key}, " + _SUMS + " from source_daily where day >= $day - 7 and day < $day group by {key}"

_TABLES = {
    "exposures": """
        select
            exposure_id, ts, surface, user_id::varchar as user_id, session_id, video_id::varchar as item_id,
            tab::varchar as container_id, nullif(random, false) as random,
            left(md5(concat_ws('-', is_click, play_time_ms, long_view)), 16) as record_hash
        from app where day = $day order by ts, exposure_id
    """,
    "listens": f"""
        select
            exposure_id as listen_id, ts, user_id::varchar as user_id, session_id, video_id::varchar as item_id,
            exposure_id, played_s,
            case
                when duration_ms > 0 and play_time_ms >= duration_ms then 'completed'
                when played_s < {SKIP_SECONDS} then 'skipped'
                else 'stopped'
            end as outcome,
            case when is_like = 1 then 'like' when is_hate = 1 then 'dislike' end as feedback
        from app where day = $day and is_click = 1 order by ts, exposure_id
    """,
    "outcomes": """
        select exposure_id, 'engagement' as name, long_view::double as value, ts
        from app where day = $day and surface = 'radio' order by ts, exposure_id
    """,
    "items": """
        select
            video_id::varchar as item_id, author_id::varchar as creator_id,
            nullif(split_part(tag, ',', 1), '') as genre, video_duration / 1000 as duration_s,
            upload_dt::timestamp as released_at, video_id::varchar as source_item_id
        from videos where $day = (select min(day) from wanted) order by video_id
    """,
    "users": f"""
        select
            user_id::varchar as user_id, (date '{REGISTER_REFERENCE}' - register_days::int)::timestamp as signed_up_at,
            user_id::varchar as source_user_id
        from users where $day = (select min(day) from wanted) order by users.user_id
    """,
    "source_impressions": f"""
        select
            concat_ws('-', user_id, video_id, time_ms) as impression_id, ts, user_id::varchar as source_user_id,
            video_id::varchar as source_item_id, is_click = 1 as clicked,
            if(is_click = 1, play_time_ms / 1000, null) as watched_s, long_view = 1 as continued, is_like = 1 as liked
        from log where day = $day and tab = {SOURCE_TAB} and not random order by ts, impression_id
    """,
    "source_user_profiles": f"""
        with past as ({_TRAILING.format(key="user_id")})
        select
            users.user_id::varchar as source_user_id, user_active_degree as segment,
            greatest($day - (date '{REGISTER_REFERENCE}' - register_days::int), 0)::bigint as tenure_days, {_COUNTS}
        from users left join past on users.user_id = past.user_id order by users.user_id
    """,
    "source_item_profiles": f"""
        with past as ({_TRAILING.format(key="video_id")})
        select
            videos.video_id::varchar as source_item_id, author_id::varchar as source_creator_id, tag as category,
            video_duration / 1000 as duration_s, ($day - upload_dt)::double as age_days, {_COUNTS}
        from videos left join past on videos.video_id = past.video_id
        where upload_dt <= $day order by videos.video_id
    """,
}


def log_days(folder: Path) -> tuple[date, date]:
    """Return the first and last whole day of the standard logs that ``folder`` holds, by the dataset's own dates.

    Raises:
        LandingError: There is no standard log.
    """
    present = [folder / "data" / name for name in LOGS if (folder / "data" / name).is_file()]
    if not present:
        raise LandingError(f"KuaiRand-Pure: {folder / 'data'} holds none of {', '.join(LOGS)}")
    first, last = date.max, date.min
    with duckdb.connect() as connection:
        for file in present:
            scan = _scan(connection, file, {"date": "BIGINT"})
            low, high = _execute(connection, file, f"select min(date), max(date) from {scan}").fetchall()[0]
            if low is None:
                raise LandingError(f"KuaiRand-Pure: {file} holds no row")
            first, last = min(first, date.fromisoformat(str(low))), max(last, date.fromisoformat(str(high)))
    return first, last


def write_landing(settings: Settings, progress: Progress = silent) -> dict[str, int]:
    """Write the landing files of every day from ``first_day`` to ``last_day`` (by default the last day of the logs).

    Files are parquet, one per table and day, each complete when its ``_SUCCESS`` stands. A second run replaces them.

    Args:
        settings: Names the dataset's folder, the landing zone and the days.
        progress: Told after each day.

    Returns:
        Rows written by table.

    Raises:
        LandingError: A file is missing, lacks a column or holds something else than its official type; or no log row
            lies within the days.
    """
    if settings.kuairand_dir is None:
        raise LandingError(
            "kuairand_dir is not set; it names the unpacked KuaiRand-Pure folder, which holds data/*.csv"
        )
    data = settings.kuairand_dir / "data"
    logs = _needed_logs(data, settings)
    if not settings.kuairand_random and (data / RANDOM_LOG).is_file():
        told = "its items were not chosen by a ranker; kuairand_random lands it for off-policy estimates"
        progress(Step("kuairand", line=f"{RANDOM_LOG} is not landed, {told}"))
    totals = dict.fromkeys(_TABLES, 0)
    with duckdb.connect(config={"threads": settings.threads, "memory_limit": settings.memory_limit}) as connection:
        spill = settings.home / "scratch"
        connection.execute(f"set temp_directory = '{escaped(str(spill))}'")
        _load(connection, data, logs, settings)
        days = [day for (day,) in connection.execute("select day from wanted order by day").fetchall()]
        for done, day in enumerate(days, 1):
            for table, query in _TABLES.items():
                totals[table] += _write(connection, settings, table, day, query)
            progress(Step("kuairand", done, len(days), line=f"{day}, landing files written"))
    return totals


def _needed_logs(data: Path, settings: Settings) -> list[Path]:
    for name in (USERS, VIDEOS):
        if not (data / name).is_file():
            raise LandingError(f"KuaiRand-Pure: {data / name} is missing")
    first, last = settings.first_day, settings.last_day
    logs = []
    for name, (start, end) in LOGS.items():
        if (data / name).is_file():
            logs.append(data / name)
        elif first <= end and (last is None or last >= start):
            raise LandingError(f"KuaiRand-Pure: {data / name} is missing; it holds {start} to {end}")
    if not logs:
        raise LandingError(f"KuaiRand-Pure: {data} holds none of {', '.join(LOGS)}")
    if settings.kuairand_random:
        if not (data / RANDOM_LOG).is_file():
            start, end = RANDOM_DAYS
            raise LandingError(
                f"KuaiRand-Pure: {data / RANDOM_LOG} is missing, the random exposures of {start} to {end}; "
                "without kuairand_random the other logs are landed alone"
            )
        logs.append(data / RANDOM_LOG)
    return logs


def _load(connection: duckdb.DuckDBPyConnection, data: Path, logs: list[Path], settings: Settings) -> None:
    """Fill the tables log, users, videos and wanted (the days to write)."""
    # One statement per file, so that an error can name its file.
    for i, file in enumerate(logs):
        head = "create table log as" if i == 0 else "insert into log"
        drawn = file.name == RANDOM_LOG
        _execute(
            connection,
            file,
            f"{head} select * exclude (is_rand), {_CLOCK} as ts, ({_CLOCK})::date as day, is_rand = 1 as random "
            f"from {_scan(connection, file, _LOG_COLUMNS)} where is_rand = {int(drawn)}",
        )
    for table, name, columns, key in (
        ("users", USERS, _USER_COLUMNS, "user_id"),
        ("videos", VIDEOS, _VIDEO_COLUMNS, "video_id"),
    ):
        file = data / name
        _execute(connection, file, f"create table {table} as select * from {_scan(connection, file, columns)}")
        (repeats,) = connection.execute(f"select count(*) - count(distinct {key}) from {table}").fetchone() or (0,)
        if repeats:
            raise LandingError(f"KuaiRand-Pure: {file} holds {repeats} rows with a repeated or null {key}")
    connection.execute(
        "create table wanted as select distinct day from log where day >= $first and ($last is null or day <= $last)",
        {"first": settings.first_day, "last": settings.last_day or log_days(data.parent)[1]},
    )
    if not connection.execute("select 1 from wanted").fetchone():
        raise LandingError(
            f"KuaiRand-Pure: the logs in {data} have no row from first_day {settings.first_day} to last_day "
            f"{settings.last_day}; they hold {' to '.join(map(str, log_days(data.parent)))}"
        )
    if strange := set(settings.kuairand_homepage_tabs) - set(APP_TABS):
        raise LandingError(f"kuairand_homepage_tabs names {sorted(strange)}; the app's tabs are {list(APP_TABS)}")
    connection.execute(_APP, {"homepage_tabs": list(settings.kuairand_homepage_tabs)})
    connection.execute(_SOURCE)


def _scan(connection: duckdb.DuckDBPyConnection, file: Path, columns: dict[str, str]) -> str:
    """Return a subquery over a CSV file that has (at least) ``columns``.

    Raises:
        LandingError: The file lacks a column; names both.
    """
    scan = f"read_csv('{escaped(str(file))}', header = true, delim = ',', quote = '\"', all_varchar = true)"
    present = {row[0] for row in _execute(connection, file, f"describe select * from {scan}").fetchall()}
    for column in columns:
        if column not in present:
            raise LandingError(f"KuaiRand-Pure: {file} lacks column {column!r}")
    typed = ", ".join(f"cast({name} as {kind}) as {name}" for name, kind in columns.items())
    return f"(select {typed} from {scan})"


def _execute(connection: duckdb.DuckDBPyConnection, file: Path, query: str) -> duckdb.DuckDBPyConnection:
    try:
        return connection.execute(query)
    except duckdb.Error as error:
        raise LandingError(f"KuaiRand-Pure: cannot read {file}: {error}") from error


def _write(connection: duckdb.DuckDBPyConnection, settings: Settings, table: str, day: date, query: str) -> int:
    folder = table_folder(settings, table, day)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SUCCESS).unlink(missing_ok=True)
    scratch, target = folder / ".kuairand.parquet", folder / "kuairand.parquet"
    # COPY takes no parameters; the day is a date of our own.
    text = query.replace("$day", f"date '{day.isoformat()}'")
    (rows,) = connection.execute(f"copy ({text}) to '{escaped(str(scratch))}' (format parquet)").fetchone() or (0,)
    scratch.replace(target)
    (folder / SUCCESS).touch()
    return int(rows)
