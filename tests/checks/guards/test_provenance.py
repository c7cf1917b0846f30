"""Guard `provenance`: the manifest agrees with the lake, and nothing knows the answer beforehand."""

from datetime import date, timedelta
from functools import partial
from shutil import copytree
from typing import Any

import pytest

from checks import gx
from checks.guards import provenance, quality
from ml.evaluation.outcome import Outcome
from ml.foundation.lake import Lake
from ml.releases.store import ReleaseStore
from ml.stages.evaluation import evaluate_models, read_evaluation
from tests.checks.spoilt import Bench, blocked, of


@pytest.fixture(scope="module")
def promoted_again(world, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A home in which the candidate became the champion, and was evaluated beside itself."""
    home = copytree(world.settings.home, tmp_path_factory.mktemp("again") / "home")
    settings = world.settings.model_copy(update={"home": home})
    read = partial(read_evaluation, settings, world.surface, world.partition)
    bench = Bench(settings, world.surface, world.candidate, read(), ReleaseStore.of(settings))
    bench.promote()
    evaluate_models(settings, world.surface, world.partition)
    return bench.but(evaluation=read()).variant(seed=5)


def test_a_candidate_as_it_was_made_passes(bench: Bench) -> None:
    result = bench.ask(provenance.GUARD)
    assert (result.outcome, result.reason) == (Outcome.PASS, "")
    assert all(check.threshold and check.value is not None for check in result.checks)


@pytest.mark.parametrize(
    ("story", "items"),
    [
        ({"seed": 99}, set()),
        ({"spec_digest": "other"}, {"surface specification"}),
        ({"gate_digest": "other"}, {"gate thresholds"}),
        ({"checkpoint_sha256": "0" * 64}, {"evaluated model"}),
        ({"train_days": (date(2026, 1, 2), date(2026, 1, 3))}, {"training days"}),
        ({"eval_days": (date(2026, 1, 5),)}, {"evaluation days", "evaluated rows"}),
        ({"partition": date(2026, 1, 8)}, {"training days", "evaluation days", "evaluated partition"}),
        ({"teacher": None}, {"teacher", "teacher contract"}),
        ({"examples": ()}, {"days of examples", "evaluated rows"}),
        ({"soft_labels": ()}, {"days of soft labels"}),
    ],
)
def test_a_manifest_that_differs_from_the_lake_and_the_specification_fails(
    bench: Bench, story: dict[str, Any], items: set[str]
) -> None:
    with bench.variant(**story).subject() as subject:
        rows = provenance.measure(subject)
    failed = {c.name for c in gx.validate(rows, provenance.suite(rows)) if c.outcome is Outcome.FAIL}
    assert items <= failed if items else failed == set()


def test_rows_of_another_snapshot_fail(bench: Bench, toolbox) -> None:
    day = toolbox.FIRST
    with Lake(bench.settings) as lake:
        lake.replace_days("features.examples_tiny", toolbox.examples(day).slice(0, 5), [day])
        spoilt = lake.snapshot()
        lake.replace_days("features.examples_tiny", toolbox.examples(day), [day])
    failed = blocked(bench.variant(snapshot=spoilt).ask(provenance.GUARD))
    assert {"rows of examples", f"content of examples {day}"} <= failed


def test_other_rows_than_the_manifests_fail_and_say_so(bench: Bench) -> None:
    told = bench.manifest.examples
    first = told[0].model_copy(update={"content_hash": "0" * 32})
    result = bench.variant(examples=(first, *told[1:])).ask(provenance.GUARD)
    assert blocked(result) == {f"content of examples {first.day}"}
    assert result.to_do == provenance.GUARD.to_do


def test_a_champion_that_the_evaluation_does_not_know_fails(champion: Bench) -> None:
    assert "evaluated champion" in blocked(champion.ask(provenance.GUARD))


def test_a_teacher_that_may_have_seen_the_evaluation_days_fails_or_warns(bench: Bench) -> None:
    told = bench.manifest
    seen = {
        min(told.eval_days): Outcome.FAIL,
        min(told.eval_days) - timedelta(days=1): Outcome.PASS,
        None: Outcome.WARN,
    }
    assert told.teacher is not None
    for day, outcome in seen.items():
        teacher = told.teacher.model_copy(update={"trained_through": day})
        (check,) = provenance.judge_teachers(told.model_copy(update={"teacher": teacher}))
        assert check.outcome is outcome


def test_an_implausible_auc_is_a_leak(bench: Bench) -> None:
    kind = bench.manifest.kind
    leaking = bench.figures(lambda r: r.model == kind and r.metric == "auc" and r.slice == "all", value=0.999)
    with leaking.subject() as subject:
        rows = provenance.measure_leaks(subject.past, bench.surface, bench.manifest.eval_days, subject.evaluation, kind)
    (check,) = gx.validate(rows, provenance.leaks_suite(bench.surface.gate.provenance, ["ctr"]))
    assert check.outcome is Outcome.FAIL


def test_better_figures_than_measured_fail_and_no_guard_believes_them(bench: Bench) -> None:
    better = bench.figures(of(bench.manifest.kind, None), value=0.9).found
    told = bench.but(evaluation=better)
    assert blocked(told.ask(provenance.GUARD)) == {"figures"}
    with told.subject() as subject:
        assert subject.evaluation.metric(bench.manifest.kind, "ctr") == bench.evaluation.metric(
            bench.manifest.kind, "ctr"
        )


@pytest.mark.parametrize("model", ["champion", "control", "baseline"])
def test_stored_predictions_of_any_model_are_scored_again_and_noise_in_them_fails(
    promoted_again: Bench, model: str
) -> None:
    """Noise in the champion's predictions would make a worse candidate look as good."""
    bench = promoted_again
    noise = "update {table} set score = score + (hash(exposure_id) % 100) / 50 where model = ? and task = 'ctr'"
    figures = bench.ask(quality.GUARD)
    with Lake(bench.settings) as lake:
        before = lake.sql("from lake.ml.predictions_tiny")
        lake.connection.execute(noise.format(table="lake.ml.predictions_tiny"), [model])
    try:
        assert {f"predictions_of_{model}", "figures"} == blocked(bench.ask(provenance.GUARD))
        assert bench.ask(quality.GUARD) == figures, "no figure comes from what is stored"
    finally:
        with Lake(bench.settings) as lake:
            lake.replace_days("ml.predictions_tiny", before, [bench.manifest.partition], day_column="partition")


def test_a_feature_that_knows_the_label_is_a_leak(bench: Bench, toolbox) -> None:
    day = bench.manifest.eval_days[0]
    table = toolbox.examples(day)
    place = table.schema.get_field_index("item_age_days")
    leaking = table.set_column(place, "item_age_days", table["label_ctr"].cast("float"))
    with Lake(bench.settings) as lake:
        lake.replace_days("features.examples_tiny", leaking, [day])
        rows = provenance.measure_leaks(lake, bench.surface, [day], bench.evaluation, "student")
        lake.replace_days("features.examples_tiny", table, [day])
        healthy = provenance.measure_leaks(lake, bench.surface, [day], bench.evaluation, "student")
    suite = provenance.leaks_suite(bench.surface.gate.provenance, ["ctr"])
    (check,) = gx.validate(rows, suite)
    assert (check.outcome, check.detail) == (Outcome.FAIL, "item_age_days")
    assert gx.validate(healthy, suite)[0].outcome is Outcome.PASS


def test_a_teacher_that_is_gone_blocks(no_teacher: Bench) -> None:
    result = no_teacher.ask(provenance.GUARD)
    assert (result.outcome, result.checks) == (Outcome.FAIL, ())
    assert "could not be evaluated" in result.reason and "absent.yaml" in result.reason
