"""A disk that is full: a step fails and says so, tables stay as they were, and a rerun with room makes the same."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ml.foundation.lake import ALIAS, Lake
from ml.foundation.settings import Settings
from tests.support.commands import ROOT, home_environment

STEPS = {
    "landing": (
        "from ml.landing.load import load_days; from ml.foundation.lake import Lake\n"
        "with Lake(s) as lake: load_days(lake, s, s.days(s.first_day, s.last_day)[3:6], set(load_surfaces(s)))",
        ("landing.exposures", "landing.listens"),
    ),
    "labelling": (
        "from ml.teacher.labels import label_days; from ml.foundation.lake import Lake\n"
        "from ml.teacher.contract import teacher_contract\n"
        "with Lake(s) as lake: label_days(lake, s, 'homepage', teacher_contract(s), s.days(s.first_day, s.last_day))",
        ("ml.soft_labels_homepage",),
    ),
}
CODE = """
import resource, signal, sys
from ml.foundation.settings import Settings
from ml.surfaces.files import load_surfaces
s = Settings()
limit = int(sys.argv[1])
if limit:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write fails as it does on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
"""


@pytest.fixture(scope="module")
def settings(tiny_demo: Path) -> Settings:
    return Settings(home=tiny_demo, surfaces_dir=ROOT / "tests" / "surfaces", threads=1)


def content(settings: Settings, tables: tuple[str, ...]) -> str:
    with Lake(settings) as lake:
        return json.dumps({table: lake.content_hash(f"{ALIAS}.{table}") for table in tables})


def run(settings: Settings, step: str, limit: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-c", CODE + step, str(limit)]
    # Python 3.11 would keep as much of a module's bytecode as there is room for, and stumble over it from then on.
    environment = home_environment(settings.home, PYTHONDONTWRITEBYTECODE="1")
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("name", ["landing", "labelling"])
def test_a_full_disk_leaves_the_tables_as_they_were_and_a_rerun_makes_the_same(settings: Settings, name: str) -> None:
    step, tables = STEPS[name]
    before = content(settings, tables)
    full = run(settings, step, 4_096)
    assert full.returncode != 0, "with no room the step must fail"
    assert any(word in full.stderr for word in ("File too large", "disk", "write")), full.stderr[-2000:]
    assert content(settings, tables) == before
    again = run(settings, step, 0)
    assert again.returncode == 0, again.stderr[-2000:]
    assert content(settings, tables) == before
