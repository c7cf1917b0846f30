"""Traces of /rank: the caller's goes on, down to release and snapshot; nothing of a request stands in them."""

import os
import subprocess
import sys
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from deploy.serving.run import serving
from tests.support.collectors import answering
from tests.support.commands import ROOT
from tests.support.tiny_home import DAY, Home, rank_body

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARTS = ["receive", "read", "features", "model", "render"]


def asked_of(home: Home, *bodies: dict[str, Any]) -> list[httpx.Response]:
    """Ask a server of its own that wants a token; when it has ended, every span was sent."""
    headers = {"Authorization": "Bearer geheim", "traceparent": f"00-{TRACE}-{CALLER}-01"}
    settings = home.settings.model_copy(update={"serve_token": SecretStr("geheim")})
    with serving(settings) as url, httpx.Client(base_url=url, headers=headers, timeout=30) as client:
        return [client.post("/rank", json=body) for body in bodies]


@pytest.mark.slow
def test_a_callers_trace_leads_to_release_and_snapshot_with_the_time_of_each_part(
    ready_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    taken: list[bytes] = []

    def take(path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        assert (path, headers["content-type"]) == ("/v1/traces", "application/x-protobuf")
        taken.append(body)
        return 200, b""

    with answering(take) as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector)
        body = rank_body(user="u7")
        found, missing = asked_of(ready_home, body, body | {"surface": "secretsurface"})
    assert (found.status_code, missing.status_code) == (200, 404)
    resources = [one for part in taken for one in ExportTraceServiceRequest.FromString(part).resource_spans]
    assert {a.value.string_value for r in resources for a in r.resource.attributes if a.key == "service.name"} == {
        "crossfade"
    }
    spans = [span for one in resources for scope in one.scope_spans for span in scope.spans]
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    whole, refused = sorted(
        (s for s in spans if s.parent_span_id.hex() == CALLER), key=lambda s: s.start_time_unix_nano
    )
    told = {a.key: a.value.string_value or a.value.int_value for a in whole.attributes}
    champion = ready_home.store.champion("homepage")
    assert champion is not None
    assert told == {
        "http.request.method": "POST",
        "http.route": "/rank",
        "http.response.status_code": 200,
        "crossfade.surface": "homepage",
        "crossfade.release": found.json()["release"],
        "crossfade.lake_snapshot": champion.release.manifest.snapshot,
        "crossfade.feature_day": DAY.isoformat(),
        "crossfade.candidates": 20,
    }
    parts = [span for span in spans if span.parent_span_id == whole.span_id]
    assert [part.name for part in sorted(parts, key=lambda p: p.end_time_unix_nano)] == PARTS
    bounds = [whole.start_time_unix_nano, *sorted(p.end_time_unix_nano for p in parts), whole.end_time_unix_nano]
    assert bounds == sorted(bounds)
    assert {"http.response.status_code": 404}.items() <= {a.key: a.value.int_value for a in refused.attributes}.items()
    for secret in (b"geheim", b"u7", b"secretsurface"):
        assert not any(secret in part for part in taken), "a span has nothing of a request"


@pytest.mark.slow
def test_a_collector_that_is_down_fails_no_request(ready_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:9/v1/traces")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    [answer] = asked_of(ready_home, rank_body())
    assert answer.status_code == 200


@pytest.mark.parametrize(
    "more",
    [{}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SDK_DISABLED": "true"}],
    ids=["unset", "off"],
)
def test_without_a_collector_nothing_is_loaded_and_no_thread_runs(more: dict[str, str]) -> None:
    code = (
        "import os, sys, threading; from deploy.elsewhere.traces import traces_of; traces = traces_of(os.environ)\n"
        "with traces.rank({}) as trace: trace.part('read')\n"
        "print([m for m in sys.modules if m.startswith('opentelemetry')], threading.active_count())"
    )
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("OTEL_")},
        "PYTHONPATH": str(ROOT),
        **more,
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] 1"
