"""A champion and a healthy candidate, made by the real graph; and the table of what caught which sabotage."""

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from ml.surfaces.files import load_surfaces
from tests.support.bench import Bench, Case, settings_of
from tests.support.known import the

COLUMNS = ("case", "goes on with", "caught by", "and by")
RELEASED = ("champion", "heads", "releases", "repository")
"""Folders that a promotion writes to; the log and its head agree only as they were together."""


@pytest.fixture(scope="session")
def healthy(built_demo: Path, once: Callable[[str, Callable[[Path], None]], Path]) -> Bench:
    """A champion of the day before, and a candidate of the last day, which the gate lets pass."""
    return _bench(once("healthy", lambda home: _make_healthy(built_demo, home)))


def _bench(home: Path) -> Bench:
    settings = settings_of(home)
    assert settings.last_day is not None
    return Bench(settings, load_surfaces(settings)["homepage"], settings.last_day)


def _make_healthy(demo: Path, home: Path) -> None:
    shutil.copytree(demo, home, ignore=shutil.ignore_patterns("artifacts", "training"))
    bench = _bench(home)
    assert bench.go_on("training_set", partition=bench.partition - timedelta(days=1)) == []
    champion = bench.pointer
    assert champion is not None
    released = {name: home / "released" / name for name in RELEASED}
    for name, kept in released.items():
        shutil.copytree(the(Path, bench.settings.artifacts_dir) / name, kept)
    assert bench.go_on("training_set") == []
    candidate = bench.pointer
    assert candidate is not None and candidate.release != champion.release
    for name, kept in released.items():  # as if its promotion had not been asked for: it and its verdict stay
        shutil.rmtree(the(Path, bench.settings.artifacts_dir) / name)
        kept.rename(the(Path, bench.settings.artifacts_dir) / name)
    (home / "released").rmdir()
    assert bench.pointer == champion


@pytest.fixture
def told(record_property: Callable[[str, object], None]) -> Callable[[Case, str], None]:
    """Add a row to the table that ends the tests."""

    def tell(case: Case, second: str) -> None:
        caught = f"guard {case.caught}" if isinstance(case.caught, int) else case.caught
        record_property("sabotage", (case.name, case.stage, caught, second))

    return tell


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table."""
    reports = terminalreporter.stats.get("passed", [])
    rows = [tuple(value) for r in reports for name, value in r.user_properties if name == "sabotage"]
    if rows:
        terminalreporter.section("sabotage")
        widths = [max(len(row[i]) for row in [COLUMNS, *rows]) for i in range(len(COLUMNS))]
        for row in [COLUMNS, *sorted(rows)]:
            terminalreporter.line(
                "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            )
