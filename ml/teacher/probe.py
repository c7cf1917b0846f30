"""Rows that any teacher must bear: what its contract allows, tried before the first row is labelled."""

from collections.abc import Iterator

import duckdb
import numpy as np

from ml.teacher.answers import Batch, TeacherModel, default_batch, numpy_type
from ml.teacher.columns import ColumnError, InputColumns
from ml.teacher.contract import INTEGERS, Contract, TeacherInput
from ml.teacher.refused import TeacherRefused
from ml.teacher.vocabulary import vocabularies

_ROWS = 9
_TRIED_IN_FULL = 1_000
_TOLERANCE = 1e-3
_TEXTS = ("", "a", "unknown", "0", " ", "\u00e9\u4e2d\U0001f3b5", "x" * 300)


def probe(model: TeacherModel) -> None:
    """Try a teacher on rows of every kind that its contract allows, and on its golden rows.

    Every input at its default, each at its bounds, small and large numbers, unknown ids, missing values where the
    contract lets them through; and each value of a whole-number range of at most a thousand.

    Raises:
        TeacherRefused: A score is not finite, depends on the other rows of its batch, or differs from a golden row.
    """
    where = _where(model.contract)
    together = np.empty(0)
    mixed: Batch = {}
    for what, batch in _batches(model.contract):
        scores = _scored(model, batch, where, what)
        bad = np.argwhere(~np.isfinite(scores))
        if len(bad):
            row, column = bad[0]
            output = model.contract.outputs[column]
            raise TeacherRefused(
                f"{where}: output {output.source!r} (task {output.task!r}, {output.kind}) is {scores[row, column]} "
                f"or out of range on a probe row ({what}): {_row_of(batch, row)}"
            )
        if what == _VARIED:
            together, mixed = scores, batch
    _check_independent(model, mixed, together, where)
    _check_vectors(model, where)
    if model.contract.golden:
        _check_golden(model, where)


_VARIED = "varied inputs"


def _where(contract: Contract) -> str:
    return str(contract.model_path) if contract.model else f"{contract.endpoint.url if contract.endpoint else ''}"


def _scored(model: TeacherModel, batch: Batch, where: str, what: str) -> np.ndarray:
    try:
        return model.score(batch)
    except TeacherRefused as error:
        open_ended = [i.name for i in model.contract.inputs if i.dtype in INTEGERS and (i.min is None or i.max is None)]
        looked_up = (
            f"; if {', '.join(open_ended)} is looked up in a table, state its `min` and `max`" if open_ended else ""
        )
        raise TeacherRefused(f"{error} (on probe rows: {what}{looked_up})") from error


def _check_independent(model: TeacherModel, mixed: Batch, together: np.ndarray, where: str) -> None:
    for row in range(2):
        alone = model.score({name: column[row : row + 1] for name, column in mixed.items()})
        gap = np.abs(alone[0] - together[row])
        if not (gap <= _TOLERANCE * (1 + np.abs(together[row]))).all():
            output = model.contract.outputs[int(gap.argmax())]
            raise TeacherRefused(
                f"{where}: output {output.source!r} of a row depends on the other rows of its batch "
                f"({alone[0].tolist()} alone, {together[row].tolist()} among {len(together)})"
            )


def _check_vectors(model: TeacherModel, where: str) -> None:
    """Refuse vectors that are not finite, or that change with an input which the contract does not name for them."""
    contract = model.contract
    for what, batch in _batches(contract) if contract.embeddings else ():
        found, plain = model.embed(batch), default_batch(contract, len(batch[contract.inputs[0].name]))
        for item in contract.embeddings:
            vectors = found[item.name]
            if not np.isfinite(vectors).all():
                row = int(np.argwhere(~np.isfinite(vectors))[0, 0])
                told = _row_of(batch, row)
                raise TeacherRefused(f"{where}: embedding {item.name!r} is not finite on a probe row ({what}): {told}")
            own = set(item.inputs) | {mask for mask, of in contract.masks.items() if of in item.inputs}
            alone = model.embed({name: (batch if name in own else plain)[name] for name in batch})[item.name]
            if not (np.abs(alone - vectors) <= _TOLERANCE * (1 + np.abs(vectors))).all():
                raise TeacherRefused(
                    f"{where}: embedding {item.name!r} of {item.entity} depends on other inputs than "
                    f"{list(item.inputs)}: name all that it is made of, or leave it out, as what is of a pair"
                )


def _batches(contract: Contract) -> Iterator[tuple[str, Batch]]:
    """Yield (what they try, probe rows)."""
    rng = np.random.default_rng(0)
    known = {name: found.range for name, found in vocabularies(contract).items()}
    yield "every input at its default", default_batch(contract, _ROWS)
    mixed = default_batch(contract, _ROWS)
    for item in contract.inputs:
        for row in range(1, _ROWS):
            mixed[item.name][row] = _value(item, known.get(item.name), row, rng)
    yield _VARIED, _with_masks(contract, mixed, rng)
    for item in contract.inputs:
        low, high = known.get(item.name) or (item.min, item.max)
        if item.dtype not in INTEGERS or low is None or high is None or high - low >= _TRIED_IN_FULL:
            continue
        values = np.arange(int(low), int(high) + 1).astype(item.dtype)
        batch = default_batch(contract, len(values))
        batch[item.name][:] = values.reshape(-1, *(1 for _ in item.shape))
        yield f"every value of {item.name!r}", _with_masks(contract, batch, rng)


def _with_masks(contract: Contract, batch: dict[str, np.ndarray], rng: np.random.Generator) -> Batch:
    """Let each ragged row of a batch have a length, and its mask say so: none, all and some values."""
    inputs = {item.name: item for item in contract.inputs}
    for mask, name in contract.masks.items():
        rows, length = batch[mask].shape
        lengths = rng.integers(1, length + 1, rows)
        lengths[0] = 0
        held = np.arange(length) < lengths[:, None]
        batch[mask] = held.astype(inputs[mask].dtype)
        batch[name][~held] = inputs[name].filler
    return batch


def _value(item: TeacherInput, known: tuple[int, int] | None, row: int, rng: np.random.Generator) -> object:
    if item.dtype == "string":
        return _TEXTS[row % len(_TEXTS)]
    if item.dtype == "bool":
        return rng.integers(0, 2, size=item.shape)
    stated = known is not None or item.min is not None or item.max is not None
    low, high = known or item.bounds
    if row == 7 and item.keep_nan:
        return np.nan
    edge = low if row == 1 else high
    if stated and row in (1, 2) and np.isfinite(edge):
        return edge
    if item.dtype in INTEGERS:
        small = row in (1, 2, 3, 4) and not stated
        top = min(high, 23) if small else high
        bottom = low if stated else max(low, 0)
        drawn = rng.integers(int(bottom), int(top), size=item.shape, endpoint=True, dtype=numpy_type(item.dtype))
        return row - 1 if row <= 2 and not stated else drawn
    drawn = np.abs(rng.normal(size=item.shape)) if row > 2 else np.full(item.shape, float(row - 1))
    return np.clip(drawn, low, high)


def _row_of(batch: Batch, row: int) -> str:
    text = ", ".join(f"{name}={np.asarray(column[row]).tolist()!r}" for name, column in batch.items())
    return text if len(text) <= 400 else text[:400] + " ..."


def golden_scores(model: TeacherModel) -> tuple[np.ndarray, np.ndarray]:
    """Return what a teacher says of its golden rows, and what its own framework said: scores [n, outputs] of each.

    Raises:
        TeacherRefused: The file of golden rows has none, lacks a column, or has one that the contract cannot take.
    """
    contract = model.contract
    assert contract.golden is not None
    path = contract.file(contract.golden)
    with duckdb.connect() as connection:
        source = connection.read_parquet(str(path))
        types = dict(zip(source.columns, (str(kind) for kind in source.types), strict=True))
        wanted = [f"score_{task}" for task in contract.tasks]
        lacking = [name for name in wanted if name not in types]
        try:
            columns = InputColumns(contract.inputs, types, str(path), vocabularies(contract))
        except ColumnError as error:
            raise TeacherRefused(str(error)) from error
        lacking += columns.absent
        if lacking:
            raise TeacherRefused(f"{path} has no column {', '.join(lacking)}; it has {', '.join(types)}")
        scores = ", ".join(f'"{name}"::double as "{name}"' for name in wanted)
        query = f"select row_number() over () as row, {scores}, {', '.join(columns.select)} from source"
        rows = connection.execute(query).fetch_arrow_table().combine_chunks()
    if not rows.num_rows:
        raise TeacherRefused(f"{path} holds no rows")
    told = [o.to_score(rows.column(name).to_numpy()) for o, name in zip(contract.outputs, wanted, strict=True)]
    return model.score(columns.read(rows.to_batches()[0], "row").inputs), np.stack(told, axis=1)


def _check_golden(model: TeacherModel, where: str) -> None:
    """Compare with what the teacher's own framework said of the golden rows."""
    contract = model.contract
    scores, golden = golden_scores(model)
    name = contract.file(str(contract.golden)).name
    for column, output in enumerate(contract.outputs):
        found, told = scores[:, column], golden[:, column]
        gap = np.abs(found - told) / (1 + np.abs(told))
        worst = int(np.nanargmax(np.where(np.isnan(gap), np.inf, gap)))
        if not gap[worst] <= contract.golden_tolerance:
            raise TeacherRefused(
                f"{where}: golden row {worst + 1} of {name}: task {output.task!r} is {found[worst]:.7g} here, "
                f"{told[worst]:.7g} where the teacher comes from (as stored), and the tolerance is "
                f"{contract.golden_tolerance:g}"
            )
