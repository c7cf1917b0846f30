"""The folder of guards: each file is one, and a new file is in the gate, its checks, verdict, card and page."""

import json
import os
import subprocess
import sys
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest
import yaml

from checks.guards import GUARDS
from checks.page import guards_page
from ml.evaluation.outcome import Outcome
from ml.foundation.settings import PROJECT_ROOT
from tests.checks.spoilt import Bench

CHECKS = PROJECT_ROOT / "checks"
A_GUARD = '''"""Guard: the ranker is small."""

from checks import gx
from checks.guard import Found, Guard, Subject, Thresholds


class Size(Thresholds):
    """Thresholds."""

    most: int = 1_000_000


def judge(subject: Subject) -> Found:
    """Judge the number of parameters."""
    return gx.validate(measure(subject), suite(Size.of(subject.surface, "size").most)), ""


def measure(subject: Subject) -> list[dict[str, int]]:
    """Return one row: ``parameters``."""
    return [{"parameters": subject.manifest.parameters}]


def suite(most: int):
    """Return the suite over ``measure``."""
    from checks.expectations.measured import ExpectMeasureBetween

    named = gx.named("parameters", gx.between(high=most))
    return gx.suite("size", [ExpectMeasureBetween(column="parameters", max_value=most, **named)])


GUARD = Guard(
    number=99,
    name="size",
    means="The ranker is small.",
    to_do="train a smaller network.",
    judge=judge,
    thresholds=Size,
)
'''
RUN = """
import json, sys
from datetime import date
from pathlib import Path
from checks.assets import build_checks
from checks.page import guards_page
from ml.foundation.settings import Settings
from ml.releases.store import ReleaseStore
from ml.releases.verdicts import Override
from ml.surfaces.files import load_surface
from ml.stages.release import promote_candidate
from tests.checks.running import run_checks

told = json.loads(sys.argv[1])
settings, day = Settings(**told["settings"]), date.fromisoformat(told["day"])
surface = load_surface(Path(told["surface"]))
checks = build_checks(settings, {surface.name: surface})
run = run_checks(settings, surface, checks, "onnx", {"dagster/partition": str(day)})
found = {e.check_name: e for e in run.get_asset_check_evaluations()}["guard_99_size"]
specs = {spec.name: spec.description for definition in checks for spec in definition.check_specs}
promote_candidate(settings, surface, day, by="test", override=Override(by="test", reason="to see the card"))
release = ReleaseStore(settings.artifacts_dir).champion(surface.name).release
print(json.dumps({
    "spec": specs["guard_99_size"],
    "passed": found.passed,
    "metadata": {name: str(value.value) for name, value in found.metadata.items()},
    "verdict": release.verdict.model_dump(mode="json"),
    "card": (release.path / "model_card.html").read_text(),
    "page": guards_page(),
}))
"""


def _folder_with(tmp_path: Path, **files: str) -> Path:
    """Copy the folder ``checks``, and put more guards into it."""
    copytree(CHECKS, tmp_path / "code" / "checks", ignore=ignore_patterns("__pycache__"))
    for name, text in files.items():
        (tmp_path / "code" / "checks" / "guards" / f"{name}.py").write_text(text, encoding="utf-8")
    return tmp_path / "code"


def _python(code: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{code}{os.pathsep}{PROJECT_ROOT}"}
    command = [sys.executable, "-W", "ignore", "-c", script, *arguments]
    return subprocess.run(command, cwd=code, env=environment, capture_output=True, text=True, check=False)


def test_a_guard_that_is_one_new_file_is_in_check_verdict_card_and_page(world, tmp_path: Path) -> None:
    home = copytree(world.settings.home, tmp_path / "home")
    settings = world.settings.model_dump(mode="json", exclude_unset=True)
    settings |= {"home": str(home), "surfaces_dir": str(home / "surfaces"), "teacher": str(home / "toy/contract.yaml")}
    spec = yaml.safe_load((home / "surfaces" / "tiny.yaml").read_text())
    spec["gate"]["guards"] = {"size": {"most": 10}}
    (home / "surfaces" / "tiny.yaml").write_text(yaml.safe_dump(spec))
    told = {"settings": settings, "surface": str(home / "surfaces" / "tiny.yaml"), "day": str(world.partition)}
    done = _python(_folder_with(tmp_path, size=A_GUARD), RUN, json.dumps(told))
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["spec"] == "The ranker is small.\n\n**If it fails**: train a smaller network."
    assert not found["passed"]
    assert (found["metadata"]["means"], found["metadata"]["to_do"]) == (
        "The ranker is small.",
        "train a smaller network.",
    )
    assert found["verdict"]["decision"] == "fail"
    guard = found["verdict"]["guards"][-1]
    assert (guard["number"], guard["name"], guard["outcome"]) == (99, "size", "fail")
    assert (guard["means"], guard["to_do"]) == ("The ranker is small.", "train a smaller network.")
    assert guard["checks"][0]["threshold"] == "<= 10"
    assert "train a smaller network." in found["card"]
    assert "What the teacher is worth" in found["card"] and "What each input is worth" in found["card"]
    assert "## 99. Size" in found["page"]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (("number=99", "number=3"), "checks/guards/size.py: 3 is the number of quality; {free} is free"),
        (('name="size"', 'name="parameters"'), "checks/guards/size.py: the guard's name is 'parameters'"),
    ],
)
def test_a_guard_with_the_number_or_name_of_another_is_refused(tmp_path: Path, edit: tuple[str, str], message: str):
    done = _python(_folder_with(tmp_path, size=A_GUARD.replace(*edit)), "import checks.guards")
    assert done.returncode == 1
    assert message.format(free=len(GUARDS) + 1) in done.stderr


@pytest.mark.parametrize(
    ("guards", "message"),
    [
        ({"size": {"many": 10}}, "surface tiny, gate: guards: size: "),
        ({"size": {"most": "all"}}, "surface tiny, gate: guards: size: "),
        ({"sizes": {"most": 10}}, "surface tiny, gate: guards: 'sizes' takes no thresholds here; allowed: "),
    ],
)
def test_a_threshold_that_no_guard_has_is_refused_when_definitions_load(
    world, tmp_path: Path, guards: dict[str, dict[str, object]], message: str
) -> None:
    spec = yaml.safe_load((world.settings.home / "surfaces" / "tiny.yaml").read_text())
    spec["gate"]["guards"] = guards
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(spec))
    load = (
        "import sys; from pathlib import Path; from checks.guards import check_thresholds; "
        "from ml.surfaces.files import load_surface; check_thresholds(load_surface(Path(sys.argv[1])))"
    )
    done = _python(_folder_with(tmp_path, size=A_GUARD), load, str(tmp_path / "tiny.yaml"))
    assert done.returncode == 1
    assert message in done.stderr


def test_a_gate_without_further_thresholds_keeps_its_digest(world) -> None:
    gate = world.surface.gate.model_copy(update={"guards": {}})
    assert "guards" not in gate.model_dump(mode="json")
    assert gate.model_copy(update={"guards": {"size": {"most": 10}}}).digest != gate.digest


def test_every_file_is_a_guard_of_its_name_and_has_its_tests() -> None:
    files = {path.stem for path in (CHECKS / "guards").glob("*.py")} - {"__init__"}
    assert {guard.name for guard in GUARDS} == files
    assert {path.stem for path in (Path(__file__).parent / "guards").glob("test_*.py")} == {f"test_{n}" for n in files}
    assert [guard.number for guard in GUARDS] == list(range(1, len(files) + 1))


def test_the_page_of_the_guards_is_that_of_their_files() -> None:
    text = (PROJECT_ROOT / "docs" / "reference" / "guards.md").read_text(encoding="utf-8")
    assert text == guards_page(), "run `python -m checks.page > docs/reference/guards.md`"


def test_a_measurement_that_raises_blocks_and_is_never_a_score(bench: Bench) -> None:
    """Each guard's own way to raise is in its own tests; here nothing of the candidate is left to look at."""
    lost = bench.variant(snapshot=10**9).but(
        settings=bench.settings.model_copy(update={"teacher": bench.settings.home / "absent.yaml"})
    )
    verdict = lost.without(lambda r: True).variant({"model.onnx": b"no model", "schema.json": b"{"}).judge()
    applied = [guard for guard in verdict.guards if guard.outcome is not Outcome.NOT_EVALUATED]
    assert {guard.name for guard in verdict.guards} - {guard.name for guard in applied} == {
        "score_shift",
        "rollback",
        "served",
    }
    assert verdict.decision == "fail"
    for guard in applied:
        assert (guard.outcome, guard.checks) == (Outcome.FAIL, ()), guard.name
        assert guard.reason.startswith("could not be evaluated: "), guard.reason
