"""The checks as Dagster sees them: specs, runs of one partition and of a range, and blocked promotion."""

import dagster as dg
import pytest

from checks.assets import VERDICT_CHECK, build_checks
from checks.guards import GUARDS
from tests.checks.running import run_checks
from tests.support.known import present, the


@pytest.fixture(scope="module")
def checks(world) -> list[dg.AssetChecksDefinition]:
    return build_checks(world.settings, {"tiny": world.surface})


def _run(world, checks, asset: str, tags: dict[str, str]) -> dg.ExecuteInProcessResult:
    return run_checks(world.settings, world.surface, checks, asset, tags)


def _one(day) -> dict[str, str]:
    return {"dagster/partition": str(day)}


def _range(first, last) -> dict[str, str]:
    return {"dagster/asset_partition_range_start": str(first), "dagster/asset_partition_range_end": str(last)}


def test_every_surface_has_its_blocking_partitioned_checks(checks) -> None:
    specs = {spec.name: spec for definition in checks for spec in definition.check_specs}
    gate = [guard.check for guard in GUARDS]
    assert list(specs) == [
        "examples_are_sound",
        "soft_labels_are_sound",
        "what_serves_is_what_was_measured",
        *gate,
        VERDICT_CHECK,
    ]
    assert gate[0] == "guard_01_data"
    assert "guard_10_provenance" in gate
    assert all(spec.blocking and spec.partitions_def for spec in specs.values())
    assert specs[VERDICT_CHECK].asset_key == dg.AssetKey(["tiny", "onnx"])


@pytest.mark.parametrize("asset", ["examples", "soft_labels"])
def test_daily_checks_cover_every_day_of_a_range(world, checks, toolbox, asset: str) -> None:
    result = _run(world, checks, asset, _range(toolbox.FIRST, toolbox.PARTITION))
    *of_days, evaluation = result.get_asset_check_evaluations()
    assert [e.partition for e in of_days] == [str(day) for day in world.settings.days(toolbox.FIRST, toolbox.PARTITION)]
    assert evaluation.partition is None and evaluation.passed and all(e.passed for e in of_days)
    assert "| 2,800 |" in str(evaluation.metadata["checks"].value)


def test_a_bad_day_in_the_middle_of_a_range_fails_the_check(world, checks, toolbox) -> None:
    from ml.foundation.lake import Lake

    day = toolbox.PARTITION
    with Lake(world.settings) as lake:
        lake.replace_days("features.examples_tiny", toolbox.examples(day).slice(0, 3), [day])
        failed = _run(world, checks, "examples", _range(toolbox.FIRST, day))
        (alone,) = _run(world, checks, "examples", _one(toolbox.FIRST)).get_asset_check_evaluations()
        lake.replace_days("features.examples_tiny", toolbox.examples(day), [day])
    assert not failed.success
    (bad,) = failed.get_asset_check_evaluations()
    assert not bad.passed
    assert bad.severity is dg.AssetCheckSeverity.ERROR
    assert f"rows is 3, wanted >= 100 ({day})" in present(bad.description)
    assert alone.passed
    assert alone.partition == str(toolbox.FIRST)


def test_the_gate_shows_every_guard_and_writes_the_verdict(world, checks) -> None:
    result = _run(world, checks, "onnx", _one(world.partition))
    evaluations = {e.check_name: e for e in result.get_asset_check_evaluations()}
    assert list(evaluations) == [*(guard.check for guard in GUARDS), VERDICT_CHECK]
    verdict = evaluations[VERDICT_CHECK]
    stored = world.store.verdicts.of_candidate("tiny", world.candidate.digest)[-1]
    assert verdict.passed
    assert verdict.metadata["verdict"].value == str(stored.path)
    assert stored.verdict.run_id == result.run_id
    quality = evaluations["guard_03_quality"]
    assert "ctr_auc" in str(quality.metadata["checks"].value)
    assert 0.6 < the(float, quality.metadata["ctr_auc"].value) < 1, "the UI plots numbers only"
    assert evaluations["guard_06_score_shift"].metadata["outcome"].value == "not_evaluated"
    slices = evaluations["guard_04_slices"]
    assert (slices.passed, slices.severity) == (False, dg.AssetCheckSeverity.WARN)
    told = {guard.name: (guard.means, guard.to_do) for guard in GUARDS}["slices"]
    assert (slices.metadata["means"].value, slices.metadata["to_do"].value) == told
    guards = [evaluations[guard.check] for guard in GUARDS]
    passed = [e for e in guards if e.metadata["outcome"].value == "pass"]
    assert passed and not any({"means", "to_do"} & set(e.metadata) for e in passed)
