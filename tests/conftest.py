"""Shared fixtures: homes that are ready for use."""

import gc
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

import ml.foundation.quiet  # noqa: F401
from tests.support.commands import run_crossfade
from tests.support.postgres import PASSWORD, Postgres
from tests.support.watched import watch_of, why_not

for name in [name for name in os.environ if name.startswith("CROSSFADE_") and name != "CROSSFADE_PICTURES"]:
    del os.environ[name]
# Every worker and each process that a test starts would compile all of its imports otherwise, for seconds.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS"):
    os.environ.setdefault(name, "1")  # a worker per core already; threads that wait for each other spin
# What Dagster, dbt and torch import stays: a collector that walks through it time and again takes a tenth of a build.
gc.set_threshold(20_000, 20, 50)
# Tests that kill processes fork their own; gRPC's handlers of forks end such a child where a client ran before it.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"


COSTLY = {"built_demo", "prepared_home", "postgres_server", "image"}
"""Fixtures that take more than some seconds: whatever uses one is ``slow``."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not even import a file that -m leaves out as a whole: some import for seconds."""
    if collection_path.suffix != ".py" or not config.option.markexpr:
        return None
    marks = re.findall(r"^pytestmark = pytest\.mark\.(\w+)$", collection_path.read_text(encoding="utf-8"), re.M)
    return any(f"not {mark}" in config.option.markexpr for mark in marks) or None


@pytest.hookimpl(tryfirst=True)  # before -m looks at the marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave tests marked ``long`` out unless -k, -m or a test's own name asks for them; begin ``early`` ones first."""
    for item in items:
        if COSTLY & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: item.get_closest_marker("early") is None)
    asked = config.option.keyword or config.option.markexpr or any("::" in argument for argument in config.args)
    left_out = [] if asked else [item for item in items if item.get_closest_marker("long")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]


def pytest_collection_finish() -> None:
    """Spare the collector what was imported."""
    gc.freeze()


@pytest.fixture(scope="session")
def prepared_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An initialised home without data."""
    from deploy.home import prepare
    from ml.foundation.settings import Settings

    home = tmp_path_factory.mktemp("home") / "prepared"
    prepare(Settings(home=home))
    return home


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """A function that makes a folder by name, once for all workers; nobody may change what is in it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def make(name: str, build: Callable[[Path], None]) -> Path:
        folder, done = shared / "once" / name, shared / "once" / f"{name}.done"
        folder.parent.mkdir(exist_ok=True)
        with FileLock(shared / "once" / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                build(folder)
                done.touch()
        return folder

    return make


@pytest.fixture(scope="session")
def built_demo(once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """A home in which `crossfade demo` ran to its end on the tiny world.

    ``TINY_DEMO`` names one that is there already: it saves minutes while one writes tests.
    """
    if ready := os.environ.get("TINY_DEMO"):
        return Path(ready)
    return once("demo", _demo)


@pytest.fixture(scope="module")
def tiny_demo(built_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of that home for each module."""
    return shutil.copytree(built_demo, tmp_path_factory.mktemp("demo") / "home")


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """A server of S3 on loopback with an empty bucket; the environment names it."""
    from benchmarks.process import object_store

    with pytest.MonkeyPatch.context() as patch, object_store() as (variables, url):
        for name, value in variables.items():
            patch.setenv(name, value)
        yield url


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A real Postgres that asks for a password.

    It lies outside pytest's own folder, which another pytest closes to all but its user when it starts; root's Postgres
    runs as another user.
    """
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="crossfade-postgres-") as folder:
        patch.setenv("PGPASSWORD", PASSWORD)
        server = Postgres(Path(folder))
        yield server
        server.close()


@pytest.fixture(scope="session")
def postgres(postgres_server: Postgres) -> Callable[[str], str]:
    """A function that makes a database on it and returns its address."""
    return postgres_server.database


@pytest.fixture(scope="module")
def servers(postgres: Callable[[str], str], s3: str) -> dict[str, str]:
    """Variables that move all that machines share to servers: catalog, runs, data and releases."""
    return {
        "CROSSFADE_CATALOG_URL": postgres("catalog"),
        "CROSSFADE_DAGSTER_URL": postgres("dagster").replace("postgresql://", "postgresql+psycopg2://"),
        "CROSSFADE_LAKE_URL": f"{s3}/lake",
        "CROSSFADE_ARTIFACTS_URL": f"{s3}/artifacts",
    }


def _demo(home: Path) -> None:
    watch = watch_of(home)
    if why_not():
        run_crossfade(home, "demo", "--preset", "tiny", timeout=600)
        return
    watch.prepare()
    run_crossfade(home, "demo", "--preset", "tiny", timeout=600, under=watch.alone, **watch.environment)


@pytest.fixture(scope="session")
def run_command() -> Callable[..., str]:
    """The function ``run_crossfade``."""
    return run_crossfade
