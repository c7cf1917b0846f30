"""The ids that a teacher knows: a file of its contract maps landed ids to the teacher's indices."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from ml.teacher.contract import Contract, ContractError

ID, INDEX = "id", "index"


class Vocabulary:
    """Landed ids and the indices that the teacher has for them.

    Args:
        ids: Strings, each once.
        indices: Whole numbers, one for each id.
    """

    def __init__(self, ids: pa.Array, indices: pa.Array) -> None:
        self._ids, self._indices = ids, indices

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def range(self) -> tuple[int, int]:
        """Least and largest index."""
        indices = self._indices.to_numpy()
        return int(indices.min()), int(indices.max())

    def index(self, landed: pa.Array) -> pa.Array:
        """Return the indices of landed ids, null where the teacher does not know one."""
        options = pc.SetLookupOptions(value_set=self._ids)
        places = pc.call_function("index_in", [landed.cast(pa.string())], options)
        return self._indices.take(places)


def load_vocabulary(path: Path) -> Vocabulary:
    """Read a vocabulary.

    Args:
        path: ``.txt`` with an id a line, whose index is the number of its line, from 0; or ``.csv`` or ``.parquet``
            with the columns ``id`` and ``index``.

    Raises:
        ContractError: The file is of another kind, lacks a column, names an id twice, or has an index that is no whole
            number.
    """
    try:
        ids, indices = _read(path)
    except (pa.ArrowInvalid, OSError, KeyError, UnicodeDecodeError) as error:
        raise ContractError(f"{path}: no vocabulary: {error}") from error
    if not len(ids):
        raise ContractError(f"{path}: holds no id")
    if ids.null_count or indices.null_count:
        raise ContractError(f"{path}: an {ID} or {INDEX} is missing")
    values, counts = ids.value_counts().flatten()
    most = int(counts.to_numpy().argmax())
    if counts[most].as_py() > 1:
        raise ContractError(f"{path}: id {values[most].as_py()!r} stands there {counts[most]} times")
    return Vocabulary(ids, indices)


def _read(path: Path) -> tuple[pa.Array, pa.Array]:
    if path.suffix == ".txt":
        lines = path.read_text(encoding="utf-8").splitlines()
        return pa.array(lines, pa.string()), pa.array(range(len(lines)), pa.int64())
    if path.suffix == ".csv":
        options = pyarrow.csv.ConvertOptions(column_types={ID: pa.string(), INDEX: pa.int64()})
        table = pyarrow.csv.read_csv(path, convert_options=options)
    elif path.suffix == ".parquet":
        table = pq.read_table(path, columns=[ID, INDEX])
    else:
        raise ContractError(f"{path}: a vocabulary is a .txt, .csv or .parquet file")
    ids, indices = table.column(ID).cast(pa.string()), table.column(INDEX).cast(pa.int64())
    return ids.combine_chunks(), indices.combine_chunks()


def vocabularies(contract: Contract) -> dict[str, Vocabulary]:
    """Return {input: its vocabulary} of a contract."""
    return {item.name: load_vocabulary(contract.file(item.vocabulary)) for item in contract.inputs if item.vocabulary}
