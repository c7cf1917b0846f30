"""The candidates that an app declares for its rankings: whose items they are, and with what request inputs."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import repeat

import duckdb
import pyarrow as pa

from ml.foundation.lake import ALIAS, FEATURES, Lake, quoted
from ml.foundation.names import nearest
from ml.foundation.settings import Settings
from ml.inference.ranking import RankingError, Row
from ml.inference.request import HOUR, ITEM, USER
from ml.landing.sources import PARAMETERS, parameterized
from ml.surfaces.columns import Input
from ml.surfaces.rankings import Rankings

TIME = "ts"
_WHOLE = re.compile(r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?")
_NUMBER = re.compile(r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|FLOAT|DOUBLE|BOOLEAN|DECIMAL\(.*\)")
_TEXT = re.compile(r"VARCHAR|UUID|ENUM\(.*\)")
_BATCH_ROWS = 20_000


@dataclass(frozen=True)
class Candidates:
    """A query of candidates.

    Attributes:
        name: File or model, for people.
        query: The query, with DuckDB's parameters in the places of its days.
        days: The values of those that it names.
    """

    name: str
    query: str
    days: Mapping[str, date]

    def columns(self, lake: Lake) -> dict[str, str]:
        """Return the columns of the query, with DuckDB's types.

        Raises:
            RankingError: DuckDB cannot run it.
        """
        try:
            statements = lake.connection.extract_statements(self.query)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                raise RankingError(f"{self.name}: it must be one query (select), which changes nothing")
            rows = lake.connection.execute(f"describe {self.query}", dict(self.days)).fetchall()
        except duckdb.Error as error:
            raise RankingError(f"{self.name}: {' '.join(str(error).split())}") from error
        return {name: kind for name, kind, *_ in rows}

    def count(self, lake: Lake) -> int:
        """Return the number of rows."""
        [(rows,)] = lake.connection.execute(f"select count(*) from ({self.query}) as c", dict(self.days)).fetchall()
        return int(rows)

    def rows(self, lake: Lake, inputs: Mapping[str, Input], columns: Mapping[str, str]) -> Iterator[Row]:
        """Stream the rows by user and item.

        Args:
            lake: The lake, as of one snapshot.
            inputs: The ranker's inputs.
            columns: Those of the query.
        """
        shown = ", ".join(_as_sent(name, kind, inputs.get(name)) for name, kind in columns.items())
        query = f"select {shown} from ({self.query}) as c order by {USER} nulls last, {ITEM}"
        each = [ITEM, *(name for name in columns if name in inputs and inputs[name].per_candidate and name != ITEM)]
        shared = [name for name in columns if name not in (USER, *each)]
        for batch in lake.connection.execute(query, dict(self.days)).to_arrow_reader(_BATCH_ROWS):
            yield from _rows(batch, shared, each)


def candidates_of(settings: Settings, rankings: Rankings, day: date) -> Candidates:
    """Return the candidates of a day.

    Raises:
        RankingError: There is no such file, or it names no day.
    """
    if rankings.model is not None:
        named = f"select * exclude (day) from {ALIAS}.{FEATURES}.{rankings.model} where day = $day"
        return Candidates(f"model {rankings.model}", named, {"day": day})
    assert settings.app is not None
    file = settings.app / rankings.candidates
    if not file.is_file():
        there = [str(path.relative_to(settings.app)) for path in settings.app.glob(f"{file.parent.name}/*.sql")]
        raise RankingError(f"candidates: no file {file}{nearest(rankings.candidates, there)}")
    text = file.read_text(encoding="utf-8").strip().rstrip(";")
    names = set(re.findall(r"\{(\w+)\}", text))
    for name in sorted(names - set(PARAMETERS)):
        raise RankingError(f"{file}: unknown {{{name}}}{nearest(name, PARAMETERS)}")
    if not names:
        raise RankingError(f"{file}: it must name the day whose candidates are asked for: {{day}}, a date")
    days = {"day": day, "next_day": day + timedelta(days=1)}
    return Candidates(str(file), parameterized(text), {name: days[name] for name in names})


def faults_of_columns(inputs: Mapping[str, Input], columns: Mapping[str, str]) -> Iterator[str]:
    """Say what is wrong with the columns of a query of candidates.

    Args:
        inputs: The ranker's inputs.
        columns: {column: DuckDB's type}.
    """
    asked = {name: item for name, item in inputs.items() if item.kind == "request"}
    for name in (USER, ITEM):
        if name not in columns:
            yield f"no column {name!r}{nearest(name, columns)}"
    for name, kind in columns.items():
        if name in inputs and name not in asked:
            told = "looked up in the features" if inputs[name].kind == "daily" else "known only after ranking"
            yield f"column {name!r} is no input of a request: it is {told}"
        elif name not in (USER, ITEM, TIME) and name not in asked:
            yield f"column {name!r} is no request input of the surface{nearest(name, [USER, ITEM, TIME, *asked])}"
        elif not _fits(name, kind, asked.get(name)):
            yield f"column {name!r} is {kind}, which is no {_wanted(name, asked.get(name))}"
    if HOUR in asked and not {HOUR, TIME} & columns.keys():
        yield f"no column {HOUR!r}, which the surface reads: select the hour at which users look, such as 18 as hour"


def _wanted(name: str, item: Input | None) -> str:
    if name in (USER, ITEM):
        return "id: select it as it landed, as text or a whole number"
    return "time" if name == TIME or item is None else item.type


def _fits(name: str, kind: str, item: Input | None) -> bool:
    if name in (USER, ITEM):
        return bool(_TEXT.fullmatch(kind) or _WHOLE.fullmatch(kind))
    if name == TIME or item is None:
        return kind.startswith("TIMESTAMP")
    match item.type:
        case "id" | "category":
            return bool(_WHOLE.fullmatch(kind)) or (name != HOUR and bool(_TEXT.fullmatch(kind)))
        case "number":
            return bool(_NUMBER.fullmatch(kind))
        case _:
            return kind.endswith("]")


def _as_sent(name: str, kind: str, item: Input | None) -> str:
    """Return the SQL of a column as a caller of ``/rank`` would send it."""
    column = quoted(name)
    if name in (USER, ITEM) or (item and item.type in ("id", "category") and not _WHOLE.fullmatch(kind)):
        return f"{column}::varchar as {column}"
    if item is None:
        return f"{column}::{'timestamptz' if 'ZONE' in kind else 'timestamp'} as {column}"
    if item.type in ("id", "category"):
        return f"{column}::bigint as {column}"
    if item.type == "event_list":
        return f"{column}::{'bigint' if _WHOLE.match(kind) else 'varchar'}[] as {column}"
    return f"{column}::double{'[]' if item.type == 'vector' else ''} as {column}"


def _rows(batch: pa.RecordBatch, shared: list[str], each: list[str]) -> Iterator[Row]:
    values = {name: batch.column(name).to_pylist() for name in batch.schema.names}
    together = zip(*(values[name] for name in shared), strict=True) if shared else repeat(())
    own = zip(*(values[name] for name in each), strict=True)
    before: tuple[object, ...] | None = None
    given: dict[str, object] = {}
    for user, of_user, of_item in zip(values[USER], together, own, strict=False):
        if of_user != before:
            before, given = of_user, dict(zip(shared, of_user, strict=True))
        yield Row(user, given, dict(zip(each, of_item, strict=True)))
