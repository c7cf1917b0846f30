"""A sampled log of what /rank answered, as files of the landing table ``served``.

An answer only hands over what it holds anyway; a thread of its own makes rows of it. What waits is bounded: on top of
that answers are dropped, and counted. A file is written under a hidden name, which nothing lands, and gets its own when
it is complete and on disk. Every process writes files of its own.
"""

import gzip
import logging
import queue
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import orjson

from deploy.serving.engine import Served
from deploy.serving.metrics import Metrics, Rarely, log
from deploy.serving.rank import RankRequest
from ml.foundation.files import sync_file, sync_folder
from ml.foundation.settings import SERVED, Settings
from ml.inference.interleaving import INTERLEAVED, TEAMS
from ml.inference.model import SCORE, order_of
from ml.inference.request import EXPOSURE, ITEM, RequestError, as_utc
from ml.landing.contract import DAY, load_contract

MOST_ROWS = 50_000
"""Candidates of answers that wait to be written: some 15 MB of arrays."""
MOST_BYTES = 64 * 2**20
"""Unpacked, after which a file is finished."""
PART = ".part"
"""Ends the name of a file that is not complete; such names begin with a dot, too."""

_MOST_OPEN = 4
_TICK_S = 1.0
_END_S = 10.0
_RETRY_S = 10.0


@dataclass(frozen=True, slots=True)
class Scored:
    """What one model gave for a request: arrays [n] of its candidates by input, and by output."""

    served: Served
    feeds: Mapping[str, np.ndarray]
    values: Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Picked:
    """An answer of two models: places of the candidates, best first, int64 [n], and who picked each, int64 [n]."""

    order: np.ndarray
    team: np.ndarray


@dataclass(frozen=True, slots=True)
class _Entry:
    at: datetime
    asked: RankRequest
    scored: Sequence[Scored]
    picked: Picked | None


class ServedLog:
    """The log of one process.

    Args:
        settings: Which share of answers, where to, and which days are landed.
        metrics: Counts the sampled answers by what became of them.
        most_rows: Candidates that may wait.
        clock: Gives the time of an answer (UTC).
    """

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        *,
        most_rows: int = MOST_ROWS,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        assert settings.serve_log_dir is not None
        contract = load_contract(settings)
        self._longest = {
            name: column.max_bytes or contract.max_string_bytes
            for name, column in contract.table(SERVED).columns.items()
            if column.kind == "string"
        }
        self._settings, self._folder, self._clock = settings, settings.serve_log_dir, clock
        self._counts, self._failures = metrics.served_log, Rarely(per_s=1 / 60)
        self._queue = queue.SimpleQueue[_Entry | None]()
        self._most, self._waiting, self._lock = most_rows, 0, threading.Lock()
        self._files: dict[date, _File] = {}
        self._paused = 0.0
        self._thread = threading.Thread(target=self._run, name="crossfade-served-log", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def close(self) -> None:
        """Write what waits and finish the files; what takes too long is left as it is, and never lands."""
        self._queue.put(None)
        self._thread.join(_END_S)

    def offer(self, asked: RankRequest, scored: Sequence[Scored], picked: Picked | None = None) -> None:
        """Take an answer, if it is one of the share; never waits and never fails.

        Args:
            asked: The request.
            scored: What the model gave, or of an interleaved answer each of both.
            picked: Who picked what in an interleaved answer.
        """
        if random.random() >= self._settings.serve_log_share:
            return
        rows = len(asked.candidates)
        with self._lock:
            fits = self._waiting + rows <= self._most
            self._waiting += rows if fits else 0
        if fits:
            self._queue.put(_Entry(self._clock(), asked, scored, picked))
        else:
            self._counts.labels("dropped").inc()

    def _run(self) -> None:
        while True:
            try:
                entry = self._queue.get(timeout=_TICK_S)
            except queue.Empty:
                self._finish(file for file in self._files.values() if self._is_due(file))
                continue
            if entry is None:
                break
            with self._lock:
                self._waiting -= len(entry.asked.candidates)
            self._write(entry)
            self._finish(file for file in self._files.values() if self._is_due(file))
            time.sleep(0)  # whoever answers goes first
        self._finish(self._files.values())

    def _is_due(self, file: "_File") -> bool:
        return file.size >= MOST_BYTES or time.monotonic() - file.began >= 60 * self._settings.serve_log_minutes

    def _write(self, entry: _Entry) -> None:
        at = self._time_of(entry)
        if at is None:
            self._counts.labels("outside").inc()
            return
        lines = _lines(entry, at, self._longest)
        if lines is None:
            self._counts.labels("unfit").inc()
            return
        if time.monotonic() < self._paused:
            self._counts.labels("failed").inc()
            return
        file = self._files.get(at.date())
        try:
            if file is None:
                file = self._open(at.date())
            file.write(lines)
        except OSError as error:
            self._counts.labels("failed").inc()
            self._give_up(file, error)

    def _time_of(self, entry: _Entry) -> datetime | None:
        """Return when an answer was given; of a finite source, whose days are not the clock's, what the request says.

        A live request's own time is not believed: an old one would change a day that has landed.
        """
        first, last = self._settings.first_day, self._settings.last_day
        if last is None:
            return entry.at
        try:
            at = entry.at if entry.asked.ts is None else as_utc(entry.asked.ts)
        except RequestError:
            return None
        return at if first <= at.date() <= last else None

    def _open(self, day: date) -> "_File":
        if len(self._files) >= _MOST_OPEN:
            self._finish([min(self._files.values(), key=lambda file: file.began)])
        self._files[day] = file = _File(self._folder / f"{DAY}={day}", day)
        return file

    def _finish(self, files: Iterable["_File"]) -> None:
        for file in list(files):
            try:
                file.finish()
            except OSError as error:
                self._give_up(file, error)
            else:
                del self._files[file.day]
                self._counts.labels("written").inc(file.answers)

    def _give_up(self, file: "_File | None", error: OSError) -> None:
        """Leave out a file that cannot be written, and rest: the disk may be full, or the folder gone."""
        self._paused = time.monotonic() + _RETRY_S
        if file is not None:
            self._files.pop(file.day, None)
            self._counts.labels("failed").inc(file.answers)
            file.discard()
        if (before := self._failures.due("")) is not None:
            log(logging.ERROR, "served log not written", folder=str(self._folder), error=str(error), not_told=before)


class _File:
    """A file that is being written."""

    def __init__(self, folder: Path, day: date) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"served-{uuid.uuid4().hex}.jsonl.gz"
        self.part = folder / f".{self.path.name}{PART}"
        self.day, self.began, self.size, self.answers = day, time.monotonic(), 0, 0
        self._raw = self.part.open("xb")
        self._packed = gzip.GzipFile(fileobj=self._raw, mode="wb", compresslevel=5)

    def write(self, content: bytes) -> None:
        """Add the rows of an answer."""
        self._packed.write(content)
        self.size += len(content)
        self.answers += 1

    def finish(self) -> None:
        """Let the file be seen, complete and on disk."""
        self._packed.close()
        self._raw.close()
        sync_file(self.part)
        self.part.replace(self.path)
        sync_folder(self.path.parent)

    def discard(self) -> None:
        """Remove what was written, as far as that goes."""
        for step in (self._raw.close, lambda: self.part.unlink(missing_ok=True)):
            try:
                step()
            except OSError:
                continue


def _lines(entry: _Entry, at: datetime, longest: Mapping[str, int]) -> bytes | None:
    """Return the rows of an answer, best first, as the landing table ``served`` has them; None if one would not land.

    What the rows of a model share is written once: this thread takes its time from whoever answers.
    """
    asked, picked = entry.asked, entry.picked
    surface, _, variant = asked.surface.partition(".")  # an experiment's variants have names of their own
    items = [str(candidate[ITEM]) for candidate in asked.candidates]
    if not all(items):
        return None
    same = {
        "request_id": uuid.uuid4().hex,
        "ts": at.replace(tzinfo=UTC),
        "surface": surface,
        "user_id": _id_or_none(asked.user_id),
    }
    forms, cells = [], []
    for team, one in enumerate(entry.scored):
        served, values = one.served, one.values
        assert served.features is not None, "nothing is answered without features"
        head = {
            **same,
            "arm": (variant or None) if picked is None else INTERLEAVED + TEAMS[team],
            "release_id": served.released.release,
            "features": served.features.snapshot_id,
            "feature_day": served.features.day.isoformat(),
        }
        columns: dict[str, Sequence[object]] = {
            "item_id": items,
            "exposure_id": [_id_or_none(candidate.get(EXPOSURE)) for candidate in asked.candidates],
            "score": values[SCORE].tolist(),
            "inputs": as_json(one.feeds),
            "outputs": as_json({name: value for name, value in values.items() if name != SCORE}),
        }
        if not _fits({**{name: [value] for name, value in head.items()}, **columns}, longest):
            return None
        named = b"".join(b',"%b":%%b' % name.encode() for name in columns)
        shared = orjson.dumps(head, option=orjson.OPT_UTC_Z)[:-1].replace(b"%", b"%%")
        forms.append(shared + named + b',"candidate":%d,"rank":%d}\n')
        cells.append(list(zip(*(map(orjson.dumps, column) for column in columns.values()), strict=True)))
    order = order_of(entry.scored[0].values[SCORE]) if picked is None else picked.order
    teams = [0] * len(order) if picked is None else picked.team.tolist()
    return b"".join(
        forms[team] % (*cells[team][place], place, rank)
        for rank, (place, team) in enumerate(zip(order.tolist(), teams, strict=True))
    )


def _fits(columns: Mapping[str, Iterable[object]], longest: Mapping[str, int]) -> bool:
    """Tell whether rows would land: an id of a client may be longer than the contract lets it be."""
    return all(
        len(value.encode()) <= longest[name]
        for name in columns.keys() & longest.keys()
        for value in columns[name]
        if isinstance(value, str)
    )


def _id_or_none(given: object) -> str | None:
    return None if given in (None, "") else str(given)


def as_json(columns: Mapping[str, np.ndarray]) -> list[str]:
    """Return each row of arrays [n] or [n, length] as a JSON object.

    A float32 is written with as many digits as tell it from every other; what is no number is null.
    """
    form = "{" + ",".join(f'"{name}":%s' for name in columns) + "}"
    return [form % row for row in zip(*map(_texts, columns.values()), strict=True)]


def _texts(values: np.ndarray) -> list[str]:
    text = orjson.dumps(np.ascontiguousarray(values), option=orjson.OPT_SERIALIZE_NUMPY).decode()
    if values.ndim == 1:
        return text[1:-1].split(",")
    return [f"[{row}]" for row in text[2:-2].split("],[")]
