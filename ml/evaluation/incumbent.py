"""Scores of the app's present ranker on the evaluation rows: those that landed, or those of its ONNX file."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from ml.evaluation.predictions import INPUTS, SCHEMA, Scores, as_scores, student_predictions
from ml.foundation.ids import ID63_SQL
from ml.foundation.lake import ALIAS, FEATURES, LANDING, Lake, quoted
from ml.foundation.names import faults_of, nearest
from ml.foundation.settings import RANKER_SCORES
from ml.surfaces.columns import Input
from ml.surfaces.incumbent import Incumbent, IncumbentInput
from ml.surfaces.spec import Surface
from ml.teacher.columns import NUMERIC, ColumnError, InputColumns
from ml.teacher.contract import Contract, TeacherInput, TeacherOutput
from ml.teacher.graph import Signature, graph_inputs, parse_graph
from ml.teacher.refused import TeacherRefused
from ml.teacher.runtime import open_teacher

_BATCH_ROWS = 8192
_DAY, _KEY = "day of the row", "exposure of the row"


class IncumbentError(ValueError):
    """A file of the app's present ranker that cannot be asked; the message names the key, and what is wrong there."""


def incumbent_predictions(
    lake: Lake, surface: Surface, partition: date, days: Sequence[date], app: Path | None
) -> pa.Table:
    """Build the rows of the app's present ranker; exposures without a finite score are left out.

    Landed scores are of what it knew when it ranked, so the same one stands under both kinds of inputs.

    Args:
        lake: The lake, or a snapshot of it.
        surface: Declares the ranker, or none.
        partition: Partition that is evaluated.
        days: Evaluation days.
        app: The app's folder, in which the ranker's file lies.

    Raises:
        IncumbentError: Its file cannot be asked.
    """
    if surface.incumbent is not None and surface.incumbent.onnx is not None:
        return _computed(lake, surface, surface.incumbent, partition, days, incumbent_contract(surface, app))
    query, parameters = _landed(lake, surface, partition, days)
    return lake.sql(query, parameters).cast(SCHEMA) if query else SCHEMA.empty_table()


def incumbent_scores(lake: Lake, surface: Surface, partition: date, days: Sequence[date], app: Path | None) -> Scores:
    """Return what ``incumbent_predictions`` builds as columns; none where there is no ranker."""
    rows = incumbent_predictions(lake, surface, partition, days, app)
    lake.connection.register("incumbent_rows", rows)
    try:
        return as_scores(lake, "(select * from incumbent_rows)")
    finally:
        lake.connection.unregister("incumbent_rows")


def _landed(lake: Lake, surface: Surface, partition: date, days: Sequence[date]) -> tuple[str, list[object]]:
    """Return the query of landed scores and its parameters; no query where none is declared or landed.

    Of scores that landed twice the latest counts, of the exposure's own day or a later one.
    """
    incumbent, landed = surface.incumbent, f"{LANDING}.{RANKER_SCORES}"
    if incumbent is None or not lake.table_exists(landed):
        return "", []
    selects, parameters = list[str](), list[object]()
    for task, name in incumbent.scores.items():
        for inputs in INPUTS:
            selects.append(
                f"select ?::date as partition, e.day, e.exposure_id, 'incumbent' as model, ? as model_hash, "
                f"'{inputs}' as inputs, ? as task, arg_max(s.score, s.day) as score "
                f"from {ALIAS}.{FEATURES}.examples_{surface.name} as e join {ALIAS}.{landed} as s "
                f"on {ID63_SQL.format(column='s.exposure_id')} = e.exposure_id and s.day >= e.day "
                "where e.day between ? and ? and s.day >= ? and s.ranker_version = ? and s.task = ? "
                "group by e.day, e.exposure_id"
            )
            parameters += [partition, f"landed:{incumbent.version}", task, days[0], days[-1], days[0]]
            parameters += [incumbent.version, name]
    return " union all ".join(selects), parameters


def incumbent_contract(surface: Surface, app: Path | None) -> Contract:
    """Return what a surface says of its ranker's file, in the words in which a teacher's file is checked.

    Raises:
        IncumbentError: There is no such file, or it has other inputs or outputs than the surface says; tells all of it.
    """
    incumbent = surface.incumbent
    assert incumbent is not None and incumbent.onnx is not None
    folder = app or Path.cwd()
    path = folder / incumbent.onnx
    if not path.is_file():
        there = [str(file.relative_to(folder)) for file in sorted(path.parent.glob("*.onnx"))]
        raise IncumbentError(f"incumbent.onnx: no file {path}{nearest(incumbent.onnx, there)}")
    try:
        model = parse_graph(path)
        inputs = graph_inputs(path, model)
    except TeacherRefused as error:
        raise IncumbentError(f"incumbent.onnx: {error}") from error
    outputs = [value.name for value in model.graph.output]
    if faults := [*_name_faults(incumbent, inputs, outputs), *_shape_faults(incumbent, inputs)]:
        raise IncumbentError("; ".join(faults))
    try:
        contract = Contract(
            name="incumbent",
            version=incumbent.version,
            trained_through=None,
            source="the app's present ranker",
            license="the app's own",
            model=incumbent.onnx,
            inputs=tuple(_input(name, of, inputs[name], surface) for name, of in incumbent.inputs.items()),
            outputs=tuple(
                TeacherOutput(task=task, kind="value", output=name, index=column)
                for task, (name, column) in incumbent.graph_outputs.items()
            ),
        )
    except ValidationError as error:
        raise IncumbentError(f"incumbent: {faults_of(error, Contract)}") from error
    return contract.beside(folder)


def _name_faults(incumbent: Incumbent, inputs: Mapping[str, Signature], outputs: Sequence[str]) -> Iterator[str]:
    for name in incumbent.inputs:
        if name not in inputs:
            yield f"incumbent.inputs.{name}: the graph has no such input{nearest(name, inputs)}"
    if left := [name for name in inputs if name not in incumbent.inputs]:
        yield f"incumbent.inputs says no column of {', '.join(left)}, which the graph takes"
    for task, (name, _) in incumbent.graph_outputs.items():
        if name not in outputs:
            yield f"incumbent.scores.{task}: the graph has no output {name!r}{nearest(name, outputs)}"


def _shape_faults(incumbent: Incumbent, inputs: Mapping[str, Signature]) -> Iterator[str]:
    for name, item in incumbent.inputs.items():
        if name not in inputs:
            continue
        row, dtype, asked = inputs[name].shape[1:], inputs[name].dtype, len(item.columns)
        if asked > 1 and (tuple(row) not in ((None,), (asked,)) or not dtype.startswith("float")):
            shown = ", ".join("n" if length is None else str(length) for length in inputs[name].shape)
            yield f"incumbent.inputs.{name} lists {asked} columns, the graph takes {dtype}[{shown}]"
        elif asked == 1 and any(length is None for length in row):
            yield f"incumbent.inputs.{name}: the graph leaves the length of a row open; list its columns: [a, b]"


def _input(name: str, item: IncumbentInput, found: Signature, surface: Surface) -> TeacherInput:
    """Return an input as a teacher's contract has it; its ``meaning`` binds the contract's hash to the columns."""
    default = _default(item, item.columns[0], surface.inputs)
    shape = (len(item.columns),) if len(item.columns) > 1 else tuple(n for n in found.shape[1:] if n not in (None, 1))
    whole = isinstance(default, float) and default.is_integer() and not found.dtype.startswith("float")
    told = {
        "name": name,
        "dtype": found.dtype,
        "shape": shape,
        "default": int(default) if whole else default,
        "keep_nan": item.keep_nan,
        "min": item.min,
        "max": item.max,
        "meaning": ", ".join(item.columns),
    }
    try:
        return TeacherInput.model_validate(told)
    except ValidationError as error:
        raise IncumbentError(f"incumbent.inputs.{name}: {faults_of(error, TeacherInput)}") from error


def _default(item: IncumbentInput, column: str, inputs: Mapping[str, Input]) -> float | str:
    """Return what stands where a column has no value."""
    if item.default is not None:
        return item.default
    if item.keep_nan:
        return float("nan")
    return inputs[column].default if column in inputs else 0.0


class IncumbentColumns:
    """Columns of a surface's examples as its ranker's file takes them.

    Args:
        lake: The lake, or a snapshot of it.
        surface: Declares the ranker.
        contract: Of its file.

    Attributes:
        kinds: Kinds of inputs that differ: one where it reads nothing that is known only after ranking.

    Raises:
        IncumbentError: The examples lack a column, or it is of another kind than the graph takes.
    """

    def __init__(self, lake: Lake, surface: Surface, contract: Contract) -> None:
        assert surface.incumbent is not None
        self._lake, self._inputs, self._asked = lake, surface.inputs, surface.incumbent.inputs
        self._table = f"{FEATURES}.examples_{surface.name}"
        if faults := list(self._faults(lake.columns(self._table))):
            raise IncumbentError("; ".join(faults))
        read = [surface.inputs.get(column) for item in self._asked.values() for column in item.columns]
        later = any(item is not None and item.serving_value is not None for item in read)
        self.kinds = INPUTS if later else INPUTS[:1]
        described = lake.connection.execute(f"describe {self._relation(INPUTS[0])}").fetchall()
        try:
            self._columns = InputColumns(contract.inputs, {n: str(kind) for n, kind, *_ in described}, self._table)
        except ColumnError as error:
            raise IncumbentError(f"incumbent.inputs: {error}") from error

    def _faults(self, there: Mapping[str, str]) -> Iterator[str]:
        for name, item in self._asked.items():
            for column in item.columns:
                if column not in there:
                    yield f"incumbent.inputs.{name}: {self._table} has no column {column!r}{nearest(column, there)}"
                elif len(item.columns) > 1 and not NUMERIC.match(there[column]):
                    yield f"incumbent.inputs.{name}: {column!r} is {there[column]}, and a vector holds numbers"

    def _relation(self, kind: str) -> str:
        asked = (f"{_selected(item, self._inputs, kind)} as {quoted(name)}" for name, item in self._asked.items())
        keys = f"day as {quoted(_DAY)}, exposure_id as {quoted(_KEY)}"
        return f"select {keys}, {', '.join(asked)} from {ALIAS}.{self._table}"

    def batches(self, days: Sequence[date], kind: str) -> Iterator[tuple[pa.RecordBatch, dict[str, np.ndarray]]]:
        """Stream the rows of some days: what names them, and what the graph takes."""
        shown = ", ".join([quoted(_DAY), quoted(_KEY), *self._columns.select])
        query = f"select {shown} from ({self._relation(kind)} where day in (select unnest(?::date[]))) as rows"
        for batch in self._lake.batches(query, [list(days)], _BATCH_ROWS):
            if batch.num_rows:
                yield batch, self._columns.read(batch, _KEY).inputs


def _selected(item: IncumbentInput, inputs: Mapping[str, Input], kind: str) -> str:
    """Return the SQL of what an input reads; as when serving, what is known only later has its fixed value."""

    def one(column: str) -> str:
        spec = inputs.get(column)
        if kind == "serving" and spec is not None and spec.serving_value is not None:
            return f"{spec.serving_value!r}::double"
        return quoted(column)

    if len(item.columns) == 1:
        return one(item.columns[0])
    parts = (
        f"coalesce(nullif({one(column)}::double, 'nan'::double), '{_default(item, column, inputs)}'::double)"
        for column in item.columns
    )
    return f"[{', '.join(parts)}]"


def _computed(
    lake: Lake, surface: Surface, incumbent: Incumbent, partition: date, days: Sequence[date], contract: Contract
) -> pa.Table:
    """Return the scores of the ranker's file: its rows are streamed, and no more than scores are held."""
    columns, tables = IncumbentColumns(lake, surface, contract), [SCHEMA.empty_table()]
    try:
        with closing(open_teacher(contract)) as model:
            for kind in columns.kinds:
                for rows, arrays in columns.batches(days, kind):
                    scores = dict(zip(contract.tasks, model.score(arrays).T, strict=True))
                    for inputs in (kind,) if len(columns.kinds) > 1 else INPUTS:
                        tables += [_rows(rows, inputs, task, values, partition) for task, values in scores.items()]
    except (TeacherRefused, ColumnError) as error:
        raise IncumbentError(f"incumbent.onnx: {error}; or land its scores in `{RANKER_SCORES}`") from error
    rows, model_hash = pa.concat_tables(tables), f"onnx:{incumbent.version}:{contract.contract_hash}"
    place = SCHEMA.names.index("model_hash")
    return rows.set_column(place, SCHEMA.field(place), pa.repeat(pa.scalar(model_hash), len(rows)))


def _rows(rows: pa.RecordBatch, inputs: str, task: str, scores: np.ndarray, partition: date) -> pa.Table:
    """Return the predictions of one task on the rows that have a finite score [n]."""
    there = np.isfinite(scores)
    return student_predictions(
        {task: scores[there]},
        partition=partition,
        days=rows.column(_DAY).filter(pa.array(there)),
        exposure_ids=rows.column(_KEY).to_numpy()[there],
        model="incumbent",
        model_hash="",
        inputs=inputs,
    )
