"""Traces of a person in files of any kind: ids as words of text, and their hashes as numbers, packed or not.

Parquet is read by its values, since its pages are compressed; everything else by its bytes, those of gzip and Zstandard
unpacked. A short id is found anywhere by chance: one of fewer than four bytes is not looked for in binary files, and a
number of fewer than six digits counts in text only within quotes.
"""

import gzip
import json
import mmap
import os
import re
import struct
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ml.foundation.ids import id63
from ml.landing.unpacking import most_bytes

_SHORT_WORD, _SHORT_NUMBER = 4, 6
_HEAD = 65_536
_TOKEN = re.compile(rb"[\w-]+")
_PARQUET, _GZIP, _ZSTD = b"PAR1", b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_CLOSED = {
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"7z\xbc\xaf": "7z",
    b"Obj\x01": "Avro",
    b"ORC": "ORC",
}


class Traces:
    """What tells that a file names a person.

    Args:
        ids: {what they are called in answers: ids}; a few, which are looked for everywhere.
        many: The same of ids that may be thousands: looked for in Parquet, and in text as words of letters, digits,
            ``_`` and ``-``.
        max_unpacked: Bytes that a packed file may unpack to, or as of ``most_bytes``.
    """

    def __init__(
        self, ids: Mapping[str, AbstractSet[str]], many: Mapping[str, AbstractSet[str]], max_unpacked: int
    ) -> None:
        self._max_unpacked = max_unpacked
        few = [(what, value) for what, values in ids.items() for value in sorted(values)]
        lots = [(what, value) for what, values in many.items() for value in values]
        self._values = {value: what for what, value in [*few, *lots]}
        self._hashes = {id63(value): f"hash of {what}" for value, what in self._values.items()}
        self._tokens = {value.encode(): what for what, value in lots}
        self._tokens |= {str(id63(value)).encode(): f"hash of {what}" for what, value in lots}
        self._fixed = {part: f"hash of {what}" for what, value in few for part in _packed(id63(value))}
        self._words = {what: _pattern(values) for what, values in ids.items() if values}
        long = {what: {v for v in values if len(v.encode()) >= _SHORT_WORD} for what, values in ids.items()}
        self._long = {what: _pattern(values) for what, values in long.items() if values}
        self._in_text = {
            what: re.compile(rf"(?<![\w-])(?:{_either(values)})(?![\w-])") for what, values in long.items() if values
        }

    def in_folder(self, root: Path, skip: AbstractSet[Path] = frozenset()) -> Iterator[tuple[Path, tuple[str, ...]]]:
        """Yield each regular file of a folder that names the person, and what of them it has.

        Args:
            root: A folder, or one file; links to folders are not followed.
            skip: Files and folders that are left out.
        """
        for path in _files(root, skip):
            if found := self.in_file(path):
                yield path, found

    def in_file(self, path: Path) -> tuple[str, ...]:
        """Return what of the person a file's name and content have, sorted; also why it cannot be told."""
        name = os.fsencode(path.name)
        found = {f"{what} in its name" for what, pattern in self._words.items() if pattern.search(name)}
        try:
            found |= self._in_content(path)
        except (OSError, ValueError, EOFError, pa.ArrowException) as error:
            found.add(f"cannot be told: {' '.join(str(error).split())[:120]}")
        return tuple(sorted(found))

    def _in_content(self, path: Path) -> set[str]:
        if not path.stat().st_size:
            return set()
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content[:4] == _PARQUET:
                return self._in_parquet(path)
            if closed := next((kind for magic, kind in _CLOSED.items() if content[: len(magic)] == magic), None):
                raise ValueError(f"it is packed as {closed}")
            if content[:2] == _GZIP or content[:4] == _ZSTD:
                return self._in_bytes(_unpacked(path, content[:2] == _GZIP, most_bytes(path, self._max_unpacked)))
            return self._in_bytes(content)

    def _in_bytes(self, content: "mmap.mmap | bytes") -> set[str]:
        found = {what for part, what in self._fixed.items() if content.find(part) >= 0}
        if b"\0" in content[:_HEAD]:
            return found | {what for what, pattern in self._long.items() if pattern.search(content)}
        found |= {what for what, pattern in self._words.items() if pattern.search(content)}
        if self._tokens:
            found |= {self._tokens[word[0]] for word in _TOKEN.finditer(content) if word[0] in self._tokens}
        return found

    def _in_parquet(self, path: Path) -> set[str]:
        found: set[str] = set()
        with pq.ParquetFile(path) as file:
            names = [field.name for field in file.schema_arrow if _searched(_leaf(field.type))]
            for batch in file.iter_batches(columns=names) if names else ():
                for name in names:
                    found |= {f"{what} in column {name}" for what in self._in_values(_leaves(batch.column(name)))}
        return found

    def _in_values(self, values: pa.Array) -> Iterator[str]:
        found = set(values.unique().to_pylist())
        if pa.types.is_integer(values.type):
            yield from (self._hashes[number] for number in found & self._hashes.keys())
            return
        yield from (self._values[value] for value in found & self._values.keys())
        text = "\n".join(value for value in found if value)
        yield from (what for what, pattern in self._in_text.items() if pattern.search(text))


def _packed(number: int) -> tuple[bytes, ...]:
    return struct.pack("<q", number), struct.pack(">q", number), str(number).encode()


def _either(values: Iterable[str]) -> str:
    return "|".join(re.escape(value) for value in sorted(values))


def _pattern(values: Iterable[str]) -> re.Pattern[bytes]:
    """Return what finds any of some ids as a word, as it is or as JSON escapes it."""
    alternatives = set[bytes]()
    for value in values:
        for form in {value.encode(), json.dumps(value)[1:-1].encode()}:
            quoted = value.isdigit() and len(value) < _SHORT_NUMBER
            alternatives.add(rb"(?<=[\"'])%s(?=[\"'])" % form if quoted else re.escape(form))
    return re.compile(rb"(?<![\w-])(?:%s)(?![\w-])" % b"|".join(sorted(alternatives)))


def _files(root: Path, skip: AbstractSet[Path]) -> Iterator[Path]:
    if root.is_file():
        yield from [] if root in skip else [root]
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if Path(folder, name) not in skip)
        for path in (Path(folder, name) for name in sorted(names)):
            if path not in skip and path.is_file():
                yield path


def _unpacked(path: Path, gzipped: bool, limit: int) -> bytes:
    with gzip.open(path) if gzipped else pa.input_stream(str(path), compression="zstd") as stream:
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"it unpacks to more than {limit >> 20:,} MB")
    return content


def _leaf(kind: pa.DataType) -> pa.DataType | None:
    """Return the type of a column's values, those of lists included; None for structs and maps."""
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind = kind.value_type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return None if pa.types.is_nested(kind) else kind


def _searched(kind: pa.DataType | None) -> bool:
    """Tell whether values of a type may be ids; what is within structs counts as if it may."""
    if kind is None:
        raise ValueError("it has a column of structs")
    return (
        pa.types.is_int64(kind)
        or pa.types.is_uint64(kind)
        or pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
    )


def _leaves(values: pa.Array) -> pa.Array:
    while pa.types.is_nested(values.type):
        values = values.flatten()
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values
