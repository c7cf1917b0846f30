"""The checks as Dagster sees them: specs, runs of one partition and of a range, and blocked promotion."""

import dagster as dg
import pytest

from assets.partitions import day_partitions, student_partitions
from checks.assets import build_checks
from checks.names import EXAMPLES_CHECK, GUARDS, SOFT_LABELS_CHECK, VERDICT_CHECK, guard_check


@pytest.fixture(scope="module")
def checks(world) -> list[dg.AssetChecksDefinition]:
    return build_checks(world.settings, {"tiny": world.surface})


def _run(world, checks, asset: str, tags: dict[str, str]) -> dg.ExecuteInProcessResult:
    key = dg.AssetKey(["tiny", asset])
    partitions = (
        student_partitions(world.settings, world.surface) if asset == "onnx" else day_partitions(world.settings)
    )
    definitions = dg.Definitions(
        assets=[dg.AssetSpec(key, partitions_def=partitions)],
        asset_checks=checks,
        jobs=[dg.define_asset_job("check", dg.AssetSelection.checks_for_assets(key), partitions_def=partitions)],
        resources={"settings": world.settings},
    )
    return definitions.resolve_job_def("check").execute_in_process(tags=tags, raise_on_error=False)


def _one(day) -> dict[str, str]:
    return {"dagster/partition": str(day)}


def _range(first, last) -> dict[str, str]:
    return {"dagster/asset_partition_range_start": str(first), "dagster/asset_partition_range_end": str(last)}


def test_every_surface_has_its_blocking_partitioned_checks(checks) -> None:
    specs = {spec.name: spec for definition in checks for spec in definition.check_specs}
    gate = [guard_check(number) for number in GUARDS]
    assert list(specs) == [EXAMPLES_CHECK, SOFT_LABELS_CHECK, *gate, VERDICT_CHECK]
    assert gate[0] == "guard_01_data"
    assert gate[-1] == "guard_10_provenance"
    assert all(spec.blocking and spec.partitions_def for spec in specs.values())
    assert specs[VERDICT_CHECK].asset_key == dg.AssetKey(["tiny", "onnx"])


@pytest.mark.parametrize("asset", ["examples", "soft_labels"])
def test_daily_checks_cover_every_day_of_a_range(world, checks, toolbox, asset: str) -> None:
    result = _run(world, checks, asset, _range(toolbox.FIRST, toolbox.PARTITION))
    (evaluation,) = result.get_asset_check_evaluations()
    assert evaluation.passed
    assert "| 2,800 |" in evaluation.metadata["checks"].value


def test_a_bad_day_in_the_middle_of_a_range_fails_the_check(world, checks, toolbox) -> None:
    from ml.lake import Lake

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
    assert f"rows is 3, wanted >= 100 ({day})" in bad.description
    assert alone.passed
    assert alone.partition == str(toolbox.FIRST)


def test_the_gate_shows_every_guard_and_writes_the_verdict(world, checks) -> None:
    result = _run(world, checks, "onnx", _one(world.partition))
    evaluations = {e.check_name: e for e in result.get_asset_check_evaluations()}
    assert list(evaluations) == [*(guard_check(n) for n in GUARDS), VERDICT_CHECK]
    verdict = evaluations[VERDICT_CHECK]
    stored = world.store.verdicts.of_candidate("tiny", world.candidate.digest)[-1]
    assert verdict.passed
    assert verdict.metadata["verdict"].value == str(stored.path)
    assert stored.verdict.run_id == result.run_id
    quality = evaluations[guard_check(3)]
    assert "ctr_auc" in quality.metadata["checks"].value
    assert 0.6 < quality.metadata["ctr_auc"].value < 1, "the UI plots numbers only"
    assert evaluations[guard_check(6)].metadata["outcome"].value == "not_evaluated"
    slices = evaluations[guard_check(4)]
    assert (slices.passed, slices.severity) == (False, dg.AssetCheckSeverity.WARN)
