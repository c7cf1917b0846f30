"""Answers without a server: a day's candidates, ranked by the champion, the first of each user written."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ml.foundation.documents import digest
from ml.foundation.files import replace_file, scratch_folder
from ml.foundation.lake import ALIAS, ML, Lake, escaped
from ml.foundation.progress import Progress, Step, silent
from ml.foundation.settings import Settings
from ml.inference.model import SCORE
from ml.inference.probe import load_model
from ml.inference.ranking import Ranked, Ranker, RankingError
from ml.inference.request import ITEM, USER
from ml.inference.snapshot import KNOWN, features_of
from ml.landing.databases import replace_rows
from ml.releases.release import Release
from ml.releases.store import ReleaseStore
from ml.stages.to_rank import candidates_of, faults_of_columns
from ml.surfaces.rankings import Rankings
from ml.surfaces.spec import Surface

RANKED_DAYS = f"{ML}.ranked_days"
"""A row per surface and day: what ranked it, and from what."""
_WRITTEN_ROWS = 50_000


class NoChampion(RankingError):
    """A surface that nothing serves yet."""


@dataclass(frozen=True)
class RankedDay:
    """What was written for one day.

    Attributes:
        day: The day.
        release: The champion that ranked.
        features: ``<day>-<hash>`` of the features that were looked up.
        users: Users ranked.
        candidates: Items ranked, over all users.
        rows: Rows written.
        unknown_users: Share of the users that the features lack.
        unknown_items: Share of the candidates whose item they lack.
        not_finite: Candidates whose score is no number.
        digest: Hash of the rows.
        place: Where they are.
        seconds: How long it took.
    """

    day: date
    release: str
    features: str
    users: int
    candidates: int
    rows: int
    unknown_users: float
    unknown_items: float
    not_finite: int
    digest: str
    place: str
    seconds: float


def rankings_table(surface: str) -> str:
    """Return the lake's table of a surface's rankings."""
    return f"{ML}.rankings_{surface}"


def rank_days(
    settings: Settings, surface: Surface, days: Iterable[date], *, progress: Progress = silent
) -> list[RankedDay]:
    """Rank the candidates of days by the champion, and replace what was written for each, day by day.

    Features and candidates are read as of one state of the lake. Memory does not grow with the candidates.

    Args:
        settings: The home.
        surface: A surface with ``rankings``.
        days: Days of features and candidates.
        progress: Told of candidates ranked.

    Raises:
        NoChampion: Nothing serves the surface.
        RankingError: The candidates cannot be ranked; nothing of that day was written, earlier days stay.
        SnapshotError: The lake has no features of a day.
        DatabaseError: The database cannot be written to.
    """
    assert surface.rankings is not None
    champion = ReleaseStore.of(settings).champion(surface.name)
    if champion is None:
        raise NoChampion(f"{surface.name} has no champion yet; the first release that passes the gate ranks")
    done: list[RankedDay] = []
    with Lake(settings) as lake:
        lake.trim_statistics()
        with Lake(settings, snapshot=lake.snapshot()) as past:
            for day in sorted(set(days)):
                with scratch_folder(settings.home / "spool", "rankings") as folder:
                    file = folder / "rankings.parquet"
                    ranked = _rank_day(past, settings, surface, champion.release, (day, file), progress)
                    _write(lake, settings, surface, ranked, file)
                done.append(ranked)
                told = f"{day}, {ranked.candidates:,} candidates of {ranked.users:,} users by {ranked.release}"
                progress(Step(f"rankings of {surface.name}", line=told))
    return done


def _rank_day(
    lake: Lake, settings: Settings, surface: Surface, release: Release, target: tuple[date, Path], progress: Progress
) -> RankedDay:
    """Rank one day into a file."""
    started, (day, file) = time.perf_counter(), target
    assert surface.rankings is not None
    model, features = load_model(release.path), features_of(lake, settings, day)
    inputs = model.schema.inputs
    candidates = candidates_of(settings, surface.rankings, day)
    columns = candidates.columns(lake)
    if faults := list(faults_of_columns(inputs, columns)):
        raise RankingError(f"{candidates.name}: {'; '.join(faults)}")
    if not (total := candidates.count(lake)):
        raise RankingError(f"{candidates.name} has no candidate on {day}; what was written for it stays")
    ranker = Ranker(model, features.bind(inputs), surface.rankings.top_k)
    written, named = 0, 0
    schema = _schema([name for name in model.outputs if name != SCORE])
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for part in _parts(ranker.rank(candidates.rows(lake, inputs, columns))):
            rows = _table(part, schema, surface.name, release.id, day)
            writer.write_table(rows)
            written += len(rows)
            named += sum(ranked.user is not None for ranked in part)
            progress(Step(f"rankings of {surface.name} on {day}", ranker.rows, total))
    _require_known(ranker, named, candidates.name, day)
    _, found = lake.content_hash(f"read_parquet('{escaped(str(file))}')")
    return RankedDay(
        day=day,
        release=release.id,
        features=features.id,
        users=ranker.users,
        candidates=ranker.rows,
        rows=written,
        unknown_users=ranker.unknown[KNOWN[USER]] / ranker.users,
        unknown_items=ranker.unknown[KNOWN[ITEM]] / ranker.rows,
        not_finite=ranker.not_finite,
        digest=found,
        place=place_of(settings, surface, day),
        seconds=time.perf_counter() - started,
    )


def _require_known(ranker: Ranker, named: int, candidates: str, day: date) -> None:
    """Refuse candidates that name ids in another form than they landed in: they would be ranked by defaults alone."""
    for column, asked, of in ((USER, ranker.users if named else 0, "users"), (ITEM, ranker.rows, "items")):
        if asked and ranker.unknown[KNOWN[column]] == asked:
            raise RankingError(
                f"{candidates}: the features of {day} know none of its {of}: select {column} as it landed, such as "
                f"landing.{of}.{column}, not the number that the tables of features have"
            )


def _parts(ranked: Iterable[Ranked]) -> Iterator[list[Ranked]]:
    """Yield users in parts of about ``_WRITTEN_ROWS`` rows."""
    part: list[Ranked] = []
    rows = 0
    for one in ranked:
        part.append(one)
        rows += len(one.items)
        if rows >= _WRITTEN_ROWS:
            yield part
            part, rows = [], 0
    if part:
        yield part


def _schema(tasks: list[str]) -> pa.Schema:
    kinds = {"day": pa.date32(), "surface": pa.string(), USER: pa.string(), "rank": pa.int32(), ITEM: pa.string()}
    kinds |= {SCORE: pa.float32(), **dict.fromkeys(tasks, pa.float32())}
    return pa.schema({**kinds, "release": pa.string(), "features_day": pa.date32()})


def _table(part: list[Ranked], schema: pa.Schema, surface: str, release: str, day: date) -> pa.Table:
    users = [ranked.user for ranked in part for _ in ranked.items]
    same = {"day": day, "surface": surface, "release": release, "features_day": day}
    columns = {name: pa.repeat(pa.scalar(value, schema.field(name).type), len(users)) for name, value in same.items()}
    columns[USER] = pa.array(users, pa.string())
    columns["rank"] = pa.array([n for ranked in part for n in range(1, len(ranked.items) + 1)], pa.int32())
    columns[ITEM] = pa.array([item for ranked in part for item in ranked.items], pa.string())
    for name in set(schema.names) - columns.keys():
        columns[name] = pa.concat_arrays([pa.array(ranked.values[name]) for ranked in part])
    return pa.table([columns[name] for name in schema.names], schema=schema)


def place_of(settings: Settings, surface: Surface, day: date) -> str:
    """Return where a day's rankings are, for people."""
    assert surface.rankings is not None
    to = surface.rankings.to
    if to.parquet:
        return str(parquet_file(settings, surface.rankings, day))
    return f"{to.database}.{to.table}" if to.database else f"{ALIAS}.{rankings_table(surface.name)}"


def parquet_file(settings: Settings, rankings: Rankings, day: date) -> Path:
    """Return the file of a day."""
    assert rankings.to.parquet is not None
    return settings.home / rankings.to.parquet.replace("{day}", day.isoformat())


def _write(lake: Lake, settings: Settings, surface: Surface, ranked: RankedDay, file: Path) -> None:
    """Put a day's rows where they belong in place of those before, and note what ranked them."""
    assert surface.rankings is not None
    to = surface.rankings.to
    if to.parquet:
        replace_file(file, parquet_file(settings, surface.rankings, ranked.day))
    elif to.database and to.table:
        keys = {"surface": surface.name, "day": ranked.day.isoformat()}
        replace_rows(settings, to.database, to.table, file, keys)
    else:
        _into_lake(lake, rankings_table(surface.name), ranked.day, file)
    noted = {
        "day": ranked.day,
        "surface": surface.name,
        "release": ranked.release,
        "features": ranked.features,
        "declared": declared(settings, surface),
        "users": ranked.users,
        "rows": ranked.rows,
        "place": ranked.place,
        "ranked_at": datetime.now(UTC),
    }
    rows = pa.Table.from_pylist([noted])
    lake.replace_days(RANKED_DAYS, rows, [ranked.day], where=f"surface = '{surface.name}'")


def declared(settings: Settings, surface: Surface) -> str:
    """Return the hash of what a surface declares of its rankings, the text of its query included."""
    assert surface.rankings is not None
    query = candidates_of(settings, surface.rankings, settings.first_day).query
    return digest([query, surface.rankings.model_dump(mode="json")])


def _into_lake(lake: Lake, table: str, day: date, file: Path) -> None:
    lake.add_columns(table, pq.read_schema(file))

    def step() -> None:
        with lake.transaction(f"{table}: {day}") as c:
            if lake.table_exists(table):
                c.execute(f"delete from {ALIAS}.{table} where day = ?", [day])
            else:
                c.execute(f"create table {ALIAS}.{table} as select * from read_parquet(?) limit 0", [str(file)])
                c.execute(f"alter table {ALIAS}.{table} set partitioned by (day)")
            c.execute(f"insert into {ALIAS}.{table} by name select * from read_parquet(?)", [str(file)])

    lake.retry(step)
