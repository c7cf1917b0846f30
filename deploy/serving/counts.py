"""What a release has answered, as Triton counts it."""

import threading
import time

_UNMEASURED = ("queue", "compute_input", "compute_output", "cache_hit", "cache_miss")


class Counts:
    """What one release has answered. Threads count too."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last_ms = 0
        self._rows = 0
        self._asked = {"success": [0, 0], "fail": [0, 0], "compute_infer": [0, 0]}

    def answered(self, rows: int, seconds: float, run_seconds: float) -> None:
        """Count an answer: its rows, and the time that all of it and the model alone took."""
        with self._lock:
            self._last_ms = int(time.time() * 1000)
            self._rows += rows
            for name, took in (("success", seconds), ("compute_infer", run_seconds)):
                self._asked[name][0] += 1
                self._asked[name][1] += int(took * 1e9)

    def failed(self, seconds: float) -> None:
        """Count a refusal."""
        with self._lock:
            self._asked["fail"][0] += 1
            self._asked["fail"][1] += int(seconds * 1e9)

    def describe(self) -> dict[str, object]:
        """Return the counts as Triton's statistics."""
        with self._lock:
            stats = {name: {"count": count, "ns": ns} for name, (count, ns) in self._asked.items()}
            done = stats["compute_infer"]["count"]
            stats |= {name: {"count": done if name[:5] != "cache" else 0, "ns": 0} for name in _UNMEASURED}
            return {
                "last_inference": self._last_ms,
                "inference_count": self._rows,
                "execution_count": done,
                "inference_stats": stats,
                "batch_stats": [],
            }
