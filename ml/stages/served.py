"""What was served, held against the training rows of what was shown: skew by input, calibration and drift.

An exposure belongs to a logged candidate that names its ``exposure_id``. Where the app does not send it, it belongs to
the latest one of the same surface, user and item that was logged at most ``BEFORE`` before it, or, since clocks differ,
to the first one at most ``AFTER`` later; not if that request had the item several times, as in two shelves. The first
exposure of a candidate counts.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta

import numpy as np
import orjson
import pyarrow as pa

from ml.evaluation.predictions import predictions_table
from ml.evaluation.served import SCHEMA, Figure, Unequal, as_table, calibration, shift
from ml.evaluation.served_kinds import (
    AS_LOGGED,
    AS_SERVED,
    EXPOSED,
    LOGGED,
    OLDER,
    REPRODUCED,
    UNEQUAL,
    served_skew_table,
)
from ml.foundation.documents import Document
from ml.foundation.lake import ALIAS, FEATURES, LANDING, Lake, quoted
from ml.foundation.sealed import DamagedError
from ml.foundation.settings import SERVED, Settings
from ml.inference.model import SCORE, Model
from ml.inference.probe import load_model
from ml.releases.store import ReleaseStore
from ml.students.columns import to_arrays
from ml.surfaces.columns import Input
from ml.surfaces.spec import Surface

BEFORE, AFTER = timedelta(minutes=30), timedelta(minutes=1)
"""How long before it is shown, or after, an item may have been ranked where no id says what belongs together."""

TOLERANCE = 1e-4
"""Two scores are the same if they differ by less than this, or this share: batches of other sizes round otherwise."""

_TABLE = f"{LANDING}.{SERVED}"
_BATCH = 16_384


class ServedError(ValueError):
    """A row of the served log that cannot be compared; the message names the request."""


@dataclass(frozen=True)
class Compared:
    """What the comparison of some days says: numbers to plot, a summary in Markdown, and a hash of the figures."""

    numbers: dict[str, float]
    summary: str
    digest: str


@dataclass
class _Pairs:
    """What was read of the candidates that were shown on a day."""

    unequal: Unequal = field(default_factory=Unequal)
    rows: int = 0
    older: int = 0
    scored: int = 0
    other_scores: int = 0
    users: list[np.ndarray] = field(default_factory=list)
    releases: list[np.ndarray] = field(default_factory=list)
    labels: dict[str, list[np.ndarray]] = field(default_factory=dict)
    outputs: dict[tuple[str, str], list[np.ndarray]] = field(default_factory=dict)

    def output(self, of: str, name: str) -> np.ndarray:
        """Return an output of all rows, NaN where it is not known."""
        return np.concatenate(self.outputs[of, name])


def days_with_log(lake: Lake, surface: str, days: Sequence[date]) -> list[date]:
    """Return the days of which anything that was served has landed, in order."""
    if not lake.table_exists(_TABLE):
        return []
    query = f"select distinct day from {ALIAS}.{_TABLE} where surface = ? and day in (select unnest(?::date[]))"
    return sorted(lake.sql(query, [surface, list(days)])["day"].to_pylist())


def compare_served(settings: Settings, surface: Surface, days: Sequence[date]) -> Compared:
    """Compare what was served on some days, and record the figures; a day without a log has none.

    Raises:
        ServedError: A row of the log does not hold what the server writes.
    """
    with Lake(settings) as lake:
        logged = days_with_log(lake, surface.name, days)
        found = {day: _figures(lake, settings, surface, day) for day in logged}
        table = served_skew_table(surface.name)
        rows = pa.concat_tables([SCHEMA.empty_table(), *(as_table(day, figures) for day, figures in found.items())])
        if found or lake.table_exists(table):
            lake.replace_days(table, rows, days)
    if not found:
        told = f"Nothing that {surface.name} served from {min(days)} to {max(days)} was logged."
        return Compared({}, told, hashlib.sha256(told.encode()).hexdigest()[:32])
    summary = "\n\n".join(_summary(surface, day, figures) for day, figures in found.items())
    last = found[max(found)]
    numbers = {"_".join(filter(None, figure[:3])).replace(" ", "_"): float(figure.value) for figure in last}
    finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
    return Compared(finite, summary, hashlib.sha256(summary.encode()).hexdigest()[:32])


def _figures(lake: Lake, settings: Settings, surface: Surface, day: date) -> list[Figure]:
    parts = {
        "surface": surface.name,  # a name of small letters, digits and _
        "log": f"{ALIAS}.{_TABLE}",
        "shown": f"{ALIAS}.{FEATURES}.stg_exposures",
        "examples": f"{ALIAS}.{FEATURES}.examples_{surface.name}",
        "first": day - timedelta(days=1),
        "day": day,
        "next": day + timedelta(days=1),
        "before": f"interval {BEFORE.total_seconds():.0f} second",
        "after": f"interval {AFTER.total_seconds():.0f} second",
    }
    lake.connection.execute(_MATCHES.format(**parts))
    try:
        found = [
            Figure(kind, name, "", n, n)
            for kind, query in ((LOGGED, _CANDIDATES), (EXPOSED, _EXPOSURES))
            for name, n in lake.connection.execute(query.format(**parts)).fetchall()
        ]
        pairs = _read(lake, settings, surface, day, _PAIRS.format(**parts, columns=_columns(surface)))
    finally:
        lake.connection.execute("drop table served_matches")
    found += pairs.unequal.figures({name: item.kind for name, item in surface.inputs.items()})
    if pairs.rows:
        found.append(Figure(OLDER, "", "", pairs.older / pairs.rows, pairs.rows))
    if pairs.scored:
        found.append(Figure(REPRODUCED, "", "", pairs.other_scores / pairs.scored, pairs.scored))
    return [*found, *_calibrations(surface, pairs, settings.seed), *_shifts(lake, settings, surface, pairs)]


_MATCHES = """
create or replace temp table served_matches as
with shown as (
    select day, exposure_id, landed_exposure_id, landed_user_id, landed_item_id, ts
    from {shown} where surface = '{surface}' and day between '{first}' and '{next}'
), logged as (
    select *, count(*) over (partition by request_id, item_id) as times
    from {log} where surface = '{surface}' and day between '{first}' and '{day}'
), possible as (
    select
        shown.day, shown.exposure_id, shown.ts, true as by_id,
        logged.request_id, logged.rank, logged.ts as asked, true as known
    from shown inner join logged on logged.exposure_id = shown.landed_exposure_id
    union all
    select
        shown.day, shown.exposure_id, shown.ts, false,
        logged.request_id, logged.rank, logged.ts, logged.times = 1
    from shown inner join logged
        on logged.exposure_id is null and logged.user_id = shown.landed_user_id
        and logged.item_id = shown.landed_item_id
        and logged.ts between shown.ts - {before} and shown.ts + {after}
), latest as (
    select * from possible
    qualify row_number() over (
        partition by day, exposure_id
        order by by_id desc, asked > ts, abs(epoch_us(asked) - epoch_us(ts)), request_id, rank
    ) = 1
)
select
    *,
    if(known, row_number() over (partition by request_id, rank, known order by ts, exposure_id), 0) as turn
from latest
"""
"""One row per exposure that a logged candidate became; ``turn`` 1 is the candidate's first, 0 may be another's."""

_CANDIDATES = """
select case
    when matched.turn = 1 then 'matched'
    when logged.user_id is null and logged.exposure_id is null then 'an unknown visitor'
    when logged.exposure_id is null and logged.times > 1 then 'the request had the item several times'
    when request.request_id is not null then 'not shown, others of the request were'
    else 'nothing of the request was shown'
end as name, count(*) as n
from (
    select *, count(*) over (partition by request_id, item_id) as times
    from {log} where surface = '{surface}' and day = '{day}'
) as logged
left join served_matches as matched
    on matched.request_id = logged.request_id and matched.rank = logged.rank and matched.turn = 1
left join (select distinct request_id from served_matches) as request on request.request_id = logged.request_id
group by 1 order by 1
"""
"""What became of a day's logged candidates: every one is counted once."""

_EXPOSURES = """
select case
    when matched.turn = 0 then 'the request had the item several times'
    when matched.turn > 1 then 'shown again'
    when matched.turn = 1 and examples.exposure_id is null then 'no training row'
    when matched.turn = 1 then 'matched'
    when asked.exposure_id is not null then 'the logged requests had other items'
    else 'no logged request'
end as name, count(*) as n
from (select * from {shown} where surface = '{surface}' and day = '{day}') as shown
left join served_matches as matched on matched.day = shown.day and matched.exposure_id = shown.exposure_id
left join (select exposure_id from {examples} where day = '{day}') as examples
    on examples.exposure_id = shown.exposure_id
left join (
    select distinct own.exposure_id from {shown} as own
    inner join {log} as logged
        on logged.surface = '{surface}' and logged.day between '{first}' and '{day}'
        and logged.user_id = own.landed_user_id and logged.ts between own.ts - {before} and own.ts + {after}
    where own.surface = '{surface}' and own.day = '{day}'
) as asked on asked.exposure_id = shown.exposure_id
group by 1 order by 1
"""
"""What became of a day's exposures: every one is counted once."""

_PAIRS = """
select logged.request_id as served_request, logged.inputs as served_inputs, logged.outputs as served_outputs,
    logged.score as served_score, logged.release_id as served_release, logged.feature_day as served_feature_day,
    {columns}
from served_matches as matched
inner join {log} as logged
    on logged.day between '{first}' and '{day}' and logged.surface = '{surface}'
    and logged.request_id = matched.request_id and logged.rank = matched.rank
inner join {examples} as examples on examples.day = matched.day and examples.exposure_id = matched.exposure_id
where matched.turn = 1 and matched.day = '{day}' order by matched.exposure_id
"""


def _columns(surface: Surface) -> str:
    inputs = [f"examples.{quoted(name)}" for name in surface.inputs]
    labels = [f"examples.{quoted(of.label)}::double as label_{i}" for i, of in enumerate(surface.tasks.values())]
    return ", ".join([*inputs, *labels, "examples.user_id as of_user"])


def _read(lake: Lake, settings: Settings, surface: Surface, day: date, query: str) -> _Pairs:
    """Read the pairs part by part, and hold each part against its training rows."""
    store, models = ReleaseStore.of(settings), dict[str, Model | None]()
    pairs = _Pairs()
    for batch in lake.batches(query, rows=_BATCH):
        releases = np.array(batch["served_release"].to_pylist(), dtype=object)
        for release in set(releases.tolist()) - models.keys():
            models[release] = _model(store, surface.name, release)
        documents = [
            _document(*texts) for texts in zip(*(batch[f"served_{n}"].to_pylist() for n in _TEXTS), strict=True)
        ]
        trained = to_arrays(batch, surface.inputs, "logged")
        of_the_day = np.array([found == str(day) for found in batch["served_feature_day"].to_pylist()], dtype=bool)
        _compare_inputs(pairs.unequal, surface, [inputs for inputs, _ in documents], trained, of_the_day)
        pairs.rows += len(documents)
        pairs.older += int((~of_the_day).sum())
        pairs.users.append(batch["of_user"].fill_null(0).to_numpy())
        pairs.releases.append(releases)
        for i, task in enumerate(surface.tasks):
            labels = batch[f"label_{i}"].to_numpy(zero_copy_only=False).astype(np.float64)
            pairs.labels.setdefault(task, []).append(labels)
        _compare_scores(pairs, surface, batch["served_score"].to_pylist(), documents, releases, models, trained)
    return pairs


_TEXTS = ("request", "inputs", "outputs")


def _document(request: str, inputs: str, outputs: str) -> tuple[Document, Document]:
    try:
        found = orjson.loads(inputs), orjson.loads(outputs)
    except orjson.JSONDecodeError as error:
        raise ServedError(f"request {request} of the served log: its inputs or outputs are no JSON: {error}") from error
    if not all(isinstance(one, dict) for one in found):
        raise ServedError(f"request {request} of the served log: its inputs or outputs are no JSON object")
    return found


def _model(store: ReleaseStore, surface: str, release: str) -> Model | None:
    """Return the model of a release; None where the store has it no more, or never had it."""
    try:
        return load_model(store.trusted_release(surface, release).path)
    except (FileNotFoundError, DamagedError, ValueError):
        return None


def _compare_inputs(
    unequal: Unequal,
    surface: Surface,
    served: Sequence[Document],
    trained: Mapping[str, np.ndarray],
    of_the_day: np.ndarray,
) -> None:
    """Count the unequal values of inputs that are known before ranking.

    Daily ones count where the features of the exposure's own day were looked up: of others it is known why they differ.
    An input that a release did not have yet, or had in another shape, does not count for its rows.
    """
    for name, item in surface.inputs.items():
        if item.kind == "after_ranking":
            continue
        there = np.array([_shaped(document.get(name, _ABSENT), item) for document in served], dtype=bool)
        rows = np.flatnonzero(there & of_the_day if item.kind == "daily" else there).tolist()
        unequal.add(name, _array([served[row][name] for row in rows], item), trained[name][rows])


_ABSENT = object()


def _shaped(value: object, item: Input) -> bool:
    if item.shape:
        return isinstance(value, list) and len(value) == item.length
    return value is None or isinstance(value, int | float)


def _array(values: Sequence[object], item: Input) -> np.ndarray:
    """Return values of the log as the model had them; null is no number."""
    return np.array(values, dtype=item.dtype).reshape(len(values), *item.shape)


def _compare_scores(
    pairs: _Pairs,
    surface: Surface,
    scores: Sequence[float | None],
    documents: Sequence[tuple[Document, Document]],
    releases: np.ndarray,
    models: Mapping[str, Model | None],
    trained: Mapping[str, np.ndarray],
) -> None:
    """Let each release score its logged inputs again: as they were, and with positions where items were shown.

    What was observed was observed where the item was shown, so predictions are held against labels with that position.
    """
    names = [*surface.tasks, SCORE]
    given = [{**outputs, SCORE: score} for (_, outputs), score in zip(documents, scores, strict=True)]
    values = {
        (of, name): np.array([one.get(name) for one in given], dtype=np.float64)
        if of == AS_SERVED
        else np.full(len(given), np.nan)
        for of in (AS_SERVED, AS_LOGGED)
        for name in names
    }
    for release in set(releases.tolist()):
        model, rows = models[release], np.flatnonzero(releases == release).tolist()
        if model is None:
            continue
        inputs = model.schema.inputs
        try:
            feeds = {name: _array([documents[row][0][name] for row in rows], item) for name, item in inputs.items()}
        except (KeyError, TypeError, ValueError) as error:
            raise ServedError(f"{surface.name}: the log lacks an input of its release {release}: {error!r}") from error
        after = {
            name: trained[name][rows]
            for name, item in inputs.items()
            if item.kind == "after_ranking" and name in trained
        }
        again = model.run(feeds)
        placed = model.run({**feeds, **after}) if after else again
        other = np.zeros(len(rows), dtype=bool)
        for name in [name for name in names if name in again]:
            was = values[AS_SERVED, name][rows]
            values[AS_LOGGED, name][rows] = placed[name]
            same = np.abs(again[name] - was) <= TOLERANCE * (1 + np.abs(was))
            other |= ~(same | (~np.isfinite(was) & ~np.isfinite(again[name])))
        pairs.scored += len(rows)
        pairs.other_scores += int(other.sum())
    for key, found in values.items():
        pairs.outputs.setdefault(key, []).append(found)


def _calibrations(surface: Surface, pairs: _Pairs, seed: int) -> list[Figure]:
    if not pairs.rows:
        return []
    users = np.concatenate(pairs.users)
    found = [
        calibration(task, of, users, pairs.output(of, task), np.concatenate(pairs.labels[task]), seed)
        for task, spec in surface.tasks.items()
        if spec.kind == "binary"
        for of in (AS_LOGGED, AS_SERVED)
    ]
    return [figure for figure in found if figure is not None]


def _shifts(lake: Lake, settings: Settings, surface: Surface, pairs: _Pairs) -> list[Figure]:
    """Hold the outputs of each release against those that it had on the rows of its own evaluation."""
    table, found = predictions_table(surface.name), []
    if not pairs.rows or not lake.table_exists(table):
        return []
    store, releases = ReleaseStore.of(settings), np.concatenate(pairs.releases)
    for release in sorted(set(releases.tolist())):
        try:
            manifest = store.trusted_release(surface.name, release).manifest
        except (FileNotFoundError, DamagedError, ValueError):
            continue
        for output in (*surface.tasks, SCORE):
            query = f"select score from {ALIAS}.{table} where partition = ? and model = ? and inputs = ? and task = ?"
            stored = lake.sql(query, [manifest.partition, manifest.kind, AS_SERVED, output])["score"].to_numpy()
            figure = shift(output, release, stored, pairs.output(AS_SERVED, output)[releases == release])
            found += [figure] if figure else []
    return found


def _summary(surface: Surface, day: date, figures: Sequence[Figure]) -> str:
    """Return what the figures of a day say, in Markdown."""
    unequal = [figure for figure in figures if figure.kind == UNEQUAL and figure.value > 0]
    worst = ", ".join(f"{f.name} {f.value:.2%}" for f in sorted(unequal, key=lambda figure: -figure.value)[:5])
    exempt = [name for name, item in surface.inputs.items() if item.kind == "after_ranking"]
    lines = [
        f"**{day}**: {f'unequal values of {worst}' if worst else 'no value is unequal'}",
        f"not compared, known only after ranking: {', '.join(exempt) or 'none'}",
        "\n".join(
            ["| figure | name | of | value | 95 % interval | n |", "|---|---|---|---|---|---|", *map(_line, figures)]
        ),
    ]
    return "\n\n".join(lines)


def _line(figure: Figure) -> str:
    shown = f"{figure.value:,.0f}" if figure.kind in (LOGGED, EXPOSED) else f"{figure.value:.4g}"
    between = "" if figure.lo is None or figure.hi is None else f"{figure.lo:.4g} to {figure.hi:.4g}"
    return f"| {figure.kind} | {figure.name} | {figure.of} | {shown} | {between} | {figure.n:,} |"
