"""Loads, warms and times models in a process of their own, as a server that starts afresh would.

``python -m ml.inference.probe CANDIDATE [RIVAL]`` prints one JSON object; ``measure_serving`` runs it and reads it.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from ml.evaluation.bootstrap import CONFIDENCE
from ml.export.files import MODEL, SCHEMA
from ml.foundation.settings import PROJECT_ROOT
from ml.inference.model import Model, open_session
from ml.teacher.contract import Contract, TeacherInput

ROWS = 200
"""Candidates of a timed request."""

ROUNDS = 300
_WARM_ROUNDS = 20
_RESAMPLED = 1000


class Outside(BaseModel):
    """A ranker that serves elsewhere: its file, and what its graph takes."""

    model: Path
    inputs: tuple[TeacherInput, ...]


def measure_serving(candidate: Path, rival: Path | None, *, timeout_s: float) -> dict[str, float]:
    """Serve a candidate, and a rival in turn with it, in a clean process.

    Args:
        candidate: Folder with model and schema.
        rival: Folder of the champion's, or a file that tells an ``Outside``; None without one.
        timeout_s: The process is killed after this time.

    Returns:
        ``ready_s`` (start of the process to the first answer), ``milliseconds`` (median of a request of ``ROWS`` rows),
        and, with a rival, ``value``: median of its time over the candidate's, with ``lo`` and ``hi``.

    Raises:
        RuntimeError: The process failed or took too long; the message ends with what it said last.
    """
    command = [sys.executable, "-m", "ml.inference.probe", str(candidate), *([str(rival)] if rival else [])]
    began = time.monotonic()
    try:
        done = subprocess.run(command, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"a clean process did not serve {ROUNDS} requests in {timeout_s:g} s") from error
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or ["nothing"]
        raise RuntimeError(f"a clean process ended with {done.returncode}, saying {last[0][:500]}")
    told = json.loads(done.stdout)
    times = {name: np.asarray(values) for name, values in told["milliseconds"].items()}
    found = {"ready_s": told["ready_at"] - began, "milliseconds": float(np.median(times["candidate"]))}
    if "rival" in times:
        ratio = times["rival"] / times["candidate"]
        draws = np.random.default_rng(0).integers(len(ratio), size=(_RESAMPLED, len(ratio)))
        lo, hi = np.quantile(np.median(ratio[draws], axis=1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        found |= {"value": float(np.median(ratio)), "lo": float(lo), "hi": float(hi)}
    return found


def measure_beside(candidate: Path, ranker: Contract, *, timeout_s: float) -> dict[str, float]:
    """Serve a candidate in turn with a ranker's own file, which takes as many rows of its own inputs.

    Args:
        candidate: Folder with model and schema.
        ranker: Names the file and its inputs.
        timeout_s: The process is killed after this time.

    Returns:
        As ``measure_serving``.

    Raises:
        RuntimeError: The process failed or took too long; the message ends with what it said last.
    """
    with tempfile.TemporaryDirectory() as scratch:
        told = Path(scratch) / "ranker.json"
        told.write_text(Outside(model=ranker.model_path, inputs=ranker.inputs).model_dump_json(), encoding="utf-8")
        return measure_serving(candidate, told, timeout_s=timeout_s)


def load_model(folder: Path) -> Model:
    """Return the model of a candidate's or a release's folder, checked and warmed."""
    return Model((folder / MODEL).read_bytes(), (folder / SCHEMA).read_bytes())


def main(folders: list[str]) -> None:
    """Print the time of readiness and the milliseconds of every round, candidate and rival in turn."""
    rng = np.random.default_rng(0)
    asked = {n: _question(n, Path(path), rng) for n, path in zip(("candidate", "rival"), folders, strict=False)}
    ready_at = time.monotonic()  # one clock for all processes of a machine, which nobody moves
    times: dict[str, list[float]] = {name: [] for name in asked}
    for done in range(_WARM_ROUNDS + ROUNDS):
        for name, ask in asked.items():
            began = time.perf_counter()
            ask()
            if done >= _WARM_ROUNDS:
                times[name].append(1e3 * (time.perf_counter() - began))
    json.dump({"ready_at": ready_at, "milliseconds": times}, sys.stdout)


def _question(name: str, path: Path, rng: np.random.Generator) -> Callable[[], object]:
    """Return what asks a model about ``ROWS`` rows, after it has answered them once."""
    if path.is_file():
        outside = Outside.model_validate_json(path.read_text(encoding="utf-8"))
        session, told = open_session(outside.model), {item.name: _rows(item, rng) for item in outside.inputs}
        session.run(None, told)
        return lambda: session.run(None, told)
    model = load_model(path)
    feeds = _feeds(model, rng)
    for output, values in model.run(feeds).items():
        if not np.isfinite(values).all():
            raise SystemExit(f"{name}: output {output} of random rows is not finite")
    return lambda: model.run(feeds)


def _rows(item: TeacherInput, rng: np.random.Generator) -> np.ndarray:
    """Draw numbers within an input's bounds; whatever is looked up or compared has its default."""
    if not item.dtype.startswith("float"):
        dtype = object if item.dtype == "string" else item.dtype
        return np.full((ROWS, *item.shape), item.default, dtype=dtype)
    return np.clip(rng.random((ROWS, *item.shape)), item.min, item.max).astype(item.dtype)


def _feeds(model: Model, rng: np.random.Generator) -> dict[str, np.ndarray]:
    def drawn(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        size = (ROWS, *shape)
        return rng.integers(0, 1 << 62, size) if dtype == "int64" else rng.random(size, dtype=np.float32)

    return {name: drawn(item.dtype, item.shape) for name, item in model.schema.inputs.items()}


if __name__ == "__main__":
    main(sys.argv[1:])
