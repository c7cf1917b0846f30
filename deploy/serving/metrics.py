"""Prometheus metrics of the server, in a registry of their own, and its structured logs."""

import json
import logging
import sys
import threading
import time
from datetime import UTC, datetime
from typing import TypedDict

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

LOGGER = logging.getLogger("crossfade.serving")

_SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0)
_DIFFERENCES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
_SHARES = tuple(step / 10 for step in range(11))


class _Common(TypedDict):
    registry: CollectorRegistry
    namespace: str


class _Labelled(_Common):
    labelnames: list[str]


class Metrics:
    """Everything that the server counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        common: _Common = {"registry": self.registry, "namespace": "crossfade"}
        self.requests = Counter("requests", "HTTP requests", ["route", "status"], **common)
        self.seconds = Histogram("request_seconds", "Time to answer", ["route"], buckets=_SECONDS, **common)
        self.in_flight = Gauge("requests_in_flight", "Requests being answered", **common)
        self.connections = Gauge("connections", "Open connections", **common)
        self.ended = Counter("connections_ended", "Connections that the server ended", ["reason"], **common)
        self.rows = Counter("rows", "Rows scored", ["surface"], **common)
        self.unknown = Counter("unknown_keys", "Keys without features in /rank", ["surface", "table"], **common)
        self.not_finite = Counter("scores_not_finite", "Scores that are no number", ["surface"], **common)
        self.loads = Counter("loads", "Loads of a release or feature snapshot", ["what", "outcome"], **common)
        self.drained = Counter("drained_models", "Replaced models that have answered their last request", **common)
        self.serving = Gauge(
            "serving", "1 for the release and features served", ["surface", "release", "version", "features"], **common
        )
        self.ranked = Counter("ranked", "Answers of /rank", ["surface", "release"], **common)
        self.served_log = Counter("served_log", "Answers that were sampled for the log", ["outcome"], **common)
        self.challenger = Gauge(
            "challenger_share", "Share of the release beside the champion", ["surface", "release", "mode"], **common
        )
        shadow: _Labelled = {"labelnames": ["surface", "release"], **common}
        self.shadowed = Counter("shadow", "Requests that a shadow scored", ["surface", "release", "outcome"], **common)
        self.shadow_shift = Histogram(
            "shadow_score_difference", "Mean of |shadow - champion| over a request", buckets=_DIFFERENCES, **shadow
        )
        self.shadow_overlap = Histogram(
            "shadow_top_overlap",
            "Share of the champion's first 10 that the shadow has there",
            buckets=_SHARES,
            **shadow,
        )
        self.feature_age = Gauge("feature_age_days", "Age of the features served", **common)
        self.troubles = Gauge("trouble", "1 for what is wrong with pointers, releases or features", ["about"], **common)
        self.look_age = Gauge("look_age_seconds", "Seconds since the pointers were last looked at", **common)
        self.ready = Gauge("ready", "Whether the server is ready", **common)

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, event, and what the call gave under ``extra={"fields": ...}``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line of JSON."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class Rarely:
    """Lets what may happen often be told seldom.

    Args:
        per_s: Tellings per second of one cause.
        at_once: Tellings that may follow each other without a pause.
    """

    _CAUSES = 1000

    def __init__(self, *, per_s: float, at_once: int = 1) -> None:
        self._per_s = per_s
        self._at_once = at_once
        self._causes: dict[str, tuple[float, float, int]] = {}
        self._lock = threading.Lock()

    def due(self, cause: str) -> int | None:
        """Return how often ``cause`` was not told since it last was, or ``None`` where it is not told now either."""
        now = time.monotonic()
        with self._lock:
            left, since, silent = self._causes.pop(cause, (float(self._at_once), now, 0))
            left = min(float(self._at_once), left + (now - since) * self._per_s)
            tells = left >= 1
            self._causes[cause] = (left - tells, now, 0 if tells else silent + 1)
            if len(self._causes) > self._CAUSES:
                self._causes.pop(next(iter(self._causes)))
        return silent if tells else None


def log(level: int, event: str, exc_info: bool = False, **fields: object) -> None:
    """Log one event with its fields."""
    LOGGER.log(level, event, exc_info=exc_info, extra={"fields": fields})


def configure_logging() -> None:
    """Write the server's log as JSON lines to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    for name in ("crossfade.serving", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(logging.INFO)
        logger.propagate = False
