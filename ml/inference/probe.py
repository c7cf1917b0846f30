"""Loads, warms and times models in a process of their own, as a server that starts afresh would.

``python -m ml.inference.probe CANDIDATE [CHAMPION]`` prints one JSON object; ``measure_serving`` runs it and reads it.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from ml.evaluation.bootstrap import CONFIDENCE
from ml.export.files import MODEL, SCHEMA
from ml.foundation.settings import PROJECT_ROOT
from ml.inference.model import Model

ROWS = 200
"""Candidates of a timed request."""

ROUNDS = 300
_WARM_ROUNDS = 20
_RESAMPLED = 1000


def measure_serving(candidate: Path, champion: Path | None, *, timeout_s: float) -> dict[str, float]:
    """Serve a candidate, and the champion in turn with it, in a clean process.

    Args:
        candidate: Folder with model and schema.
        champion: Folder of the champion's; None without one.
        timeout_s: The process is killed after this time.

    Returns:
        ``ready_s`` (start of the process to the first answer), ``milliseconds`` (median of a request of ``ROWS`` rows),
        and, with a champion, ``value``: median of its time over the candidate's, with ``lo`` and ``hi``.

    Raises:
        RuntimeError: The process failed or took too long; the message ends with what it said last.
    """
    command = [sys.executable, "-m", "ml.inference.probe", str(candidate), *([str(champion)] if champion else [])]
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
    if "champion" in times:
        ratio = times["champion"] / times["candidate"]
        draws = np.random.default_rng(0).integers(len(ratio), size=(_RESAMPLED, len(ratio)))
        lo, hi = np.quantile(np.median(ratio[draws], axis=1), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        found |= {"value": float(np.median(ratio)), "lo": float(lo), "hi": float(hi)}
    return found


def load_model(folder: Path) -> Model:
    """Return the model of a candidate's or a release's folder, checked and warmed."""
    return Model((folder / MODEL).read_bytes(), (folder / SCHEMA).read_bytes())


def main(folders: list[str]) -> None:
    """Print the time of readiness and the milliseconds of every round, candidate and champion in turn."""
    models = {name: load_model(Path(folder)) for name, folder in zip(("candidate", "champion"), folders, strict=False)}
    rng = np.random.default_rng(0)
    feeds = {name: _feeds(model, rng) for name, model in models.items()}
    for name, model in models.items():
        for output, values in model.run(feeds[name]).items():
            if not np.isfinite(values).all():
                raise SystemExit(f"{name}: output {output} of random rows is not finite")
    ready_at = time.monotonic()  # one clock for all processes of a machine, which nobody moves
    times: dict[str, list[float]] = {name: [] for name in models}
    for done in range(_WARM_ROUNDS + ROUNDS):
        for name, model in models.items():
            began = time.perf_counter()
            model.run(feeds[name])
            if done >= _WARM_ROUNDS:
                times[name].append(1e3 * (time.perf_counter() - began))
    json.dump({"ready_at": ready_at, "milliseconds": times}, sys.stdout)


def _feeds(model: Model, rng: np.random.Generator) -> dict[str, np.ndarray]:
    def drawn(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
        size = (ROWS, *shape)
        return rng.integers(0, 1 << 62, size) if dtype == "int64" else rng.random(size, dtype=np.float32)

    return {name: drawn(item.dtype, item.shape) for name, item in model.schema.inputs.items()}


if __name__ == "__main__":
    main(sys.argv[1:])
