"""Nothing is reported to anybody, however a process was started."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest

from benchmarks.process import free_port, running
from ml.foundation.quiet import QUIET
from tests.support.commands import ROOT
from tests.support.image import Installed
from tests.support.watched import Watch, watch_of, why_not

CACHES = re.compile(
    r"home/\.duckdb/extensions/v[\d.]+/\w+/\w+\.duckdb_extension(\.info)?|home/\.cache/matplotlib/fontlist-v[\d.]+\.json"
)
"""What is made once for all homes of a user: DuckDB's extensions out of installed packages, and a list of fonts."""
TRACE = Path(".cache") / "Microsoft"
"""Where onnxruntime keeps the events that it is going to send, and the id of this device."""
IN_A_POOL = """
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
import ml
with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
    pool.submit(exec, "import onnxruntime").result()
"""
PLAIN = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}


def python(home: Path, code: str, **more: str) -> str:
    """Run code of this checkout, as one runs it without installing it; nobody asked for quiet."""
    environment = {**PLAIN, "HOME": str(home), **more}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("module", ["ml.teacher.runtime", "deploy.serving.run", "benchmarks.labelling"])
def test_onnxruntime_leaves_no_trace_whatever_loads_it(module: str, tmp_path: Path) -> None:
    """One module for a package, whose own first line runs before any of them."""
    python(tmp_path, f"import {module}, onnxruntime")
    assert not (tmp_path / TRACE).exists()


def test_onnxruntime_leaves_no_trace_in_a_pool(tmp_path: Path) -> None:
    python(tmp_path, IN_A_POOL)
    assert not (tmp_path / TRACE).exists()


def test_onnxruntime_is_loaded_by_packages_that_were_quiet_before() -> None:
    """A package's first line runs before any module of it; the servers of benchmarks have environments of their own."""
    pattern = re.compile(r"^\s*(import|from) onnxruntime", re.M)
    files = [
        path for folder in ("assets", "benchmarks", "checks", "deploy", "ml") for path in ROOT.glob(f"{folder}/**/*.py")
    ]
    loading = {path.relative_to(ROOT).parts[0] for path in files if pattern.search(path.read_text(encoding="utf-8"))}
    for package in loading:
        assert (ROOT / package / "__init__.py").read_text(encoding="utf-8").startswith("import ml.foundation.quiet")


def test_every_interpreter_of_an_environment_with_the_project_is_quiet(image: Installed, tmp_path: Path) -> None:
    told = image.run(tmp_path, "python", "-c", "import onnxruntime, os; print(*map(os.environ.get, %r))" % [*QUIET])
    assert told.split() == [*QUIET.values()]
    assert not (tmp_path / TRACE).exists()


def test_a_value_that_somebody_gave_stays(image: Installed, tmp_path: Path) -> None:
    code = "import ml, os; print(os.environ['GX_ANALYTICS_ENABLED'])"
    assert python(tmp_path, code, GX_ANALYTICS_ENABLED="true") == "true\n"
    assert image.run(tmp_path, "python", "-c", code, GX_ANALYTICS_ENABLED="true") == "true\n"


needs_watch = pytest.mark.skipif(bool(why_not()), reason=why_not())


@needs_watch
def test_the_demo_calls_nobody_and_leaves_nothing_outside_of_its_instance_directory(built_demo: Path) -> None:
    """Raw files to the server's answer ran without a network, and could not write into the checkout."""
    if "TINY_DEMO" in os.environ:
        pytest.skip("TINY_DEMO names a home that was there already")
    watch = watch_of(built_demo)
    assert watch.called(), "its server was asked over loopback"
    assert watch.called_others() == []
    assert [path for path in watch.left() if not CACHES.fullmatch(path)] == []


@needs_watch
def test_whoever_calls_or_writes_would_be_seen(tmp_path: Path) -> None:
    watch = Watch(tmp_path)
    watch.prepare()
    code = f"""
import contextlib, pathlib, socket
with contextlib.suppress(OSError):
    socket.create_connection(("192.0.2.7", 9), timeout=1)
with contextlib.suppress(OSError):
    socket.getaddrinfo("example.com", 80)
with contextlib.suppress(OSError):
    pathlib.Path({str(ROOT / "written")!r}).touch()
pathlib.Path.home().joinpath(".left").touch()
"""
    command = [*watch.alone, sys.executable, "-c", code]
    subprocess.run(command, env={**PLAIN, **watch.environment}, check=True, timeout=60)
    assert "192.0.2.7" in watch.called_others() and watch.left() == ["home/.left"]
    assert not (ROOT / "written").exists()


def test_dg_notes_nothing_without_an_instance(tmp_path: Path) -> None:
    """It would leave its commands in HOME, for the next webserver to send."""
    code = "import ml; from dagster_dg_core.utils.telemetry import log_telemetry_action as note; note('some_command')"
    python(tmp_path, code)
    assert not (tmp_path / ".dagster").exists()
    python(tmp_path, code, DG_CLI_CONFIG=str(tmp_path / "none.toml"))
    assert (tmp_path / ".dagster").exists(), "the file of settings is what keeps it quiet"


@pytest.fixture
def collector() -> Iterator[tuple[str, list[str]]]:
    """A server that Dagster would report to, and the paths that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/actions", asked
        server.shutdown()


def test_dagster_dev_reports_nothing_without_an_instance(
    image: Installed, collector: tuple[str, list[str]], tmp_path: Path
) -> None:
    """Its webserver would send what a command before it has left in the log of events."""
    url, asked = collector
    watch = Watch(tmp_path)
    events = tmp_path / ".dagster" / "logs" / "event.log"
    events.parent.mkdir(parents=True)
    events.write_text("{}\n", encoding="utf-8")
    port = free_port()
    command = [str(image.programs / "python"), "-m", "dagster", "dev", "-w", "workspace.yaml", "-p", str(port)]
    # A process gets the variables of a login and these alone: the others are empty for its children, too.
    environment = image.environment(tmp_path, DAGSTER_TELEMETRY_URL=url)
    with running(
        [*([] if why_not() else watch.seen), "env", "-i", *(f"{k}={v}" for k, v in environment.items()), *command],
        lambda _: f"http://127.0.0.1:{port}",
        "/server_info",
        folder=image.folder,
    ) as (_, dev):
        # The code server is the last to start, and what starts runs.
        query = {"query": "{ workspaceOrError { ... on Workspace { locationEntries { loadStatus } } } }"}
        assert _until(lambda: '"LOADED"' in _ask(port, query))
        first = dev if why_not() else dev.children()[0]
        started = [process for process in first.children(recursive=True) if "python" in process.name()]
        assert len(started) >= 3, [process.cmdline() for process in started]
        for process in started:
            assert QUIET.items() <= process.environ().items(), process.cmdline()
    assert asked == []
    assert not (tmp_path / TRACE).exists()
    assert why_not() or watch.called_others() == []


def _ask(port: int, query: dict[str, str]) -> str:
    return httpx.post(f"http://127.0.0.1:{port}/graphql", json=query, timeout=60).text


def _until(holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if holds():
            return True
        time.sleep(0.5)
    return False
