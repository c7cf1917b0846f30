"""Traces of ``/rank`` by OpenTelemetry, from the caller's trace to the release and the lake snapshot behind an answer.

On where ``OTEL_EXPORTER_OTLP_ENDPOINT`` or ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`` names a collector; the other
variables of OpenTelemetry hold too. A span has no header, no id and no text of a request.
"""

import json
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_CALLERS = ("traceparent", "tracestate")
"""Headers of W3C by which a caller hands its trace on."""


class Trace:
    """One request that nobody traces."""

    def __enter__(self) -> "Trace":
        return self

    def __exit__(self, kind: object, error: BaseException | None, where: object) -> None:
        pass

    def part(self, name: str) -> None:
        """Note that a part of the answer has just ended."""

    def answered_by(self, surface: str, release: Path, label: Mapping[str, object], candidates: int) -> None:
        """Note what answers: the surface, the release's folder, what the answer names, and how many are ranked."""


class Traces:
    """No traces."""

    _untraced = Trace()

    def rank(self, headers: Mapping[str, str]) -> Trace:
        """Return the trace of one request; it begins now and ends with its block."""
        return self._untraced

    def close(self) -> None:
        """Send what was not sent yet, and end."""


class _Sent(Trace):
    """A request whose spans are sent: one for the whole, below it one for each part."""

    def __init__(self, tracer: Any, context: Any) -> None:
        from opentelemetry.trace import SpanKind

        self._tracer = tracer
        self._begun, self._clock = time.time_ns(), time.perf_counter_ns()
        self._parts: list[tuple[str, int]] = []
        told = {"http.request.method": "POST", "http.route": "/rank"}
        self._span = tracer.start_span(
            "POST /rank", context, kind=SpanKind.SERVER, attributes=told, start_time=self._begun
        )

    def part(self, name: str) -> None:
        self._parts.append((name, self._now()))

    def answered_by(self, surface: str, release: Path, label: Mapping[str, object], candidates: int) -> None:
        told = {"surface": surface, **label, "lake_snapshot": snapshot_of(release), "candidates": candidates}
        self._span.set_attributes({f"crossfade.{name}": value for name, value in told.items() if value is not None})

    def __exit__(self, kind: object, error: BaseException | None, where: object) -> None:
        from opentelemetry.trace import StatusCode, set_span_in_context

        ended, status = self._now(), _status(error)
        self._span.set_attribute("http.response.status_code", status)
        if error is not None:
            self._span.set_attribute("error.type", type(error).__name__)
        if status >= 500:
            self._span.set_status(StatusCode.ERROR)
        if self._span.is_recording():
            inside, begun = set_span_in_context(self._span), self._begun
            for name, at in self._parts:
                self._tracer.start_span(name, inside, start_time=begun).end(at)
                begun = at
        self._span.end(ended)

    def _now(self) -> int:
        """Return the time in ns since 1970 by a clock that nobody sets back."""
        return self._begun + time.perf_counter_ns() - self._clock


class _Collected(Traces):
    """Spans go to a collector, by a thread of their own."""

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("crossfade")
        self._callers = TraceContextTextMapPropagator()

    def rank(self, headers: Mapping[str, str]) -> Trace:
        carried = {name: headers[name] for name in _CALLERS if name in headers}
        return _Sent(self._tracer, self._callers.extract(carried))

    def close(self) -> None:
        self._provider.shutdown()


def traces_of(environment: Mapping[str, str]) -> Traces:
    """Return the traces that the variables of OpenTelemetry ask for; without a collector nothing is loaded.

    Raises:
        RuntimeError: A collector is named, and OpenTelemetry is not installed.
    """
    off = (
        environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or environment.get("OTEL_TRACES_EXPORTER") == "none"
    )
    asked = [name for name in _ENDPOINTS if environment.get(name)]
    if off or not asked:
        return Traces()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        told = f"{asked[0]} needs packages that are not there: make install EXTRAS=opentelemetry, or unset it"
        raise RuntimeError(f"{told} ({error})") from error
    named = environment.get("OTEL_SERVICE_NAME") or "service.name=" in environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    resource = Resource.create({} if named else {"service.name": "crossfade"})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return _Collected(provider)


@lru_cache(maxsize=64)
def snapshot_of(release: Path) -> int | None:
    """Return the lake snapshot that a release was trained on, by its manifest; None where it has none."""
    try:
        return int(json.loads((release / "manifest.json").read_bytes())["snapshot"])
    except (OSError, ValueError, KeyError, TypeError):  # a variant of an experiment, or damaged: others tell of that
        return None


def _status(error: BaseException | None) -> int:
    from starlette.requests import ClientDisconnect

    if error is None:
        return 200
    if isinstance(error, TimeoutError | ClientDisconnect):
        return 408 if isinstance(error, TimeoutError) else 499
    return int(getattr(error, "status", 500))
