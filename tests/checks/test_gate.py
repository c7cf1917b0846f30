"""The gate as a whole, on a candidate that went through every stage; and each guard on bad data."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest

from checks.gate import judge
from checks.names import GUARDS
from ml.evaluation.evaluate import Evaluation
from ml.store.artifacts import Artifact, ArtifactStore
from ml.store.manifest import Manifest
from ml.store.promotion import Proposal
from ml.store.refusals import PromotionRefused, Refusal
from ml.store.releases import ReleaseStore
from ml.store.verdicts import Outcome, Verdict


@pytest.fixture
def evaluation(world) -> Evaluation:
    from ml.stages.evaluation import read_evaluation

    return read_evaluation(world.settings, world.surface, world.partition)


@pytest.fixture
def store(tmp_path) -> ReleaseStore:
    """A store of its own for every test: no champion yet."""
    return ReleaseStore(tmp_path)


def _judge(world, evaluation: Evaluation, store: ReleaseStore, **options: Any) -> Verdict:
    options = {"surface": world.surface, "candidate": world.candidate} | options
    return judge(world.settings, evaluation=evaluation, store=store, **options).verdict


def _variant(world, store: ReleaseStore, files: dict[str, bytes] | None = None, **manifest: Any) -> Artifact:
    """The candidate with other files, or with another story told in its manifest."""
    content = {name: world.candidate.read(name) for name in world.candidate.files} | (files or {})
    told = Manifest.from_bytes(content["manifest.json"], "test").model_copy(update=manifest)
    content["manifest.json"] = told.to_bytes()
    return ArtifactStore(store.files.root).put("models/tiny/onnx", world.candidate.partition, content)


def _changed(evaluation: Evaluation, match: Callable[[Any], bool], **values: float) -> Evaluation:
    """The evaluation with other figures where ``match`` holds."""
    results = tuple(replace(r, **values) if match(r) else r for r in evaluation.results)
    assert results != evaluation.results
    return replace(evaluation, results=results)


def _failed(verdict: Verdict, number: int) -> set[str]:
    blocking = (Outcome.FAIL, Outcome.INCONCLUSIVE)
    return {check.name for check in verdict.guard(number).checks if check.outcome in blocking}


def test_a_sound_candidate_passes_is_promoted_and_its_verdict_is_complete(world, evaluation, store) -> None:
    verdict = _judge(world, evaluation, store)
    assert verdict.failures() == []
    assert verdict.decision == "pass"
    assert [guard.number for guard in verdict.guards] == list(GUARDS)
    assert {g.number for g in verdict.guards if g.outcome is Outcome.NOT_EVALUATED} == {6, 9}
    assert verdict.judged == dict(world.candidate.files)
    assert all(c.threshold and c.value is not None for n in (1, 2, 5, 7, 10) for c in verdict.guard(n).checks)
    pointer = store.promote(
        "tiny",
        Proposal(
            world.candidate,
            store.verdict_key(world.surface, world.candidate),
            world.partition,
            "test",
            "first",
            evaluation=json.loads(evaluation.to_json()),
        ),
    )
    assert store.champion("tiny").release.id == pointer.release


def test_a_slice_without_rows_is_a_warning_that_is_shown(world, evaluation, store) -> None:
    guard = _judge(world, evaluation, store).guard(4)
    assert guard.outcome is Outcome.WARN
    assert "none_at_all" in guard.reason


def test_a_guard_that_raises_has_failed_and_the_error_is_in_the_verdict(world, evaluation, store) -> None:
    settings = world.settings.model_copy(update={"teacher": world.settings.home / "absent.yaml"})
    verdict = judge(settings, world.surface, world.candidate, evaluation, store=store).verdict
    assert verdict.decision == "fail"
    assert {g.number for g in verdict.guards if g.outcome is Outcome.FAIL} == {2, 10}
    assert "absent.yaml" in verdict.guard(2).reason


def test_guards_1_and_2_are_measured_again_at_the_recorded_snapshot(world, evaluation, store, toolbox) -> None:
    from ml.lake import Lake

    day = toolbox.FIRST
    with Lake(world.settings) as lake:
        lake.replace_days("features.examples_tiny", toolbox.examples(day).slice(0, 5), [day])
        spoilt = lake.snapshot()
        lake.replace_days("features.examples_tiny", toolbox.examples(day), [day])
    assert _judge(world, evaluation, store).guard(1).outcome is Outcome.PASS
    verdict = _judge(world, evaluation, store, candidate=_variant(world, store, snapshot=spoilt))
    assert "rows" in _failed(verdict, 1)
    assert "coverage" not in _failed(verdict, 2)
    assert {"rows of examples", f"content of examples {day}"} <= _failed(verdict, 10)


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
    world, evaluation, store, story: dict[str, Any], items: set[str]
) -> None:
    from checks import gx
    from checks.suites.provenance import origins_suite
    from ml.gate.provenance import compare_origins
    from ml.lake import Lake
    from ml.teacher.contract import load_contract

    manifest = Manifest.from_bytes(world.candidate.read("manifest.json"), "m").model_copy(update=story)
    contract = load_contract(world.settings.teacher)
    with Lake(world.settings, snapshot=manifest.snapshot) as lake:
        rows = compare_origins(lake, world.settings, world.surface, manifest, contract, evaluation, None)
    failed = {c.name for c in gx.validate(rows, origins_suite(rows)) if c.outcome is Outcome.FAIL}
    assert items <= failed if items else failed == set()


def test_other_rows_than_the_manifests_fail_and_say_so(world, evaluation, store) -> None:
    told = Manifest.from_bytes(world.candidate.read("manifest.json"), "m")
    first = told.examples[0].model_copy(update={"content_hash": "0" * 32})
    verdict = _judge(world, evaluation, store, candidate=_variant(world, store, examples=(first, *told.examples[1:])))
    assert _failed(verdict, 10) == {f"content of examples {first.day}"}


def test_a_teacher_that_may_have_seen_the_evaluation_days_fails_or_warns(world, store) -> None:
    from checks.gate import _teacher_is_older
    from checks.suites.provenance import teacher_suite

    told = Manifest.from_bytes(world.candidate.read("manifest.json"), "m")
    seen = {
        min(told.eval_days): Outcome.FAIL,
        min(told.eval_days) - timedelta(days=1): Outcome.PASS,
        None: Outcome.WARN,
    }
    for day, outcome in seen.items():
        teacher = told.teacher.model_copy(update={"trained_through": day})
        (check,) = _teacher_is_older(told.model_copy(update={"teacher": teacher}), teacher_suite())
        assert check.outcome is outcome


def test_an_implausible_auc_is_a_leak(world, evaluation, store) -> None:
    kind = Manifest.from_bytes(world.candidate.read("manifest.json"), "m").kind
    leaking = _changed(evaluation, lambda r: r.model == kind and r.metric == "auc" and r.slice == "all", value=0.999)
    assert _failed(_judge(world, leaking, store), 10) == {"ctr_strongest_auc", "figures"}


def test_a_feature_that_knows_the_label_is_a_leak(world, evaluation, toolbox) -> None:
    from checks import gx
    from checks.suites.provenance import leaks_suite
    from ml.gate.provenance import measure_leaks
    from ml.lake import Lake

    day = world.surface.evaluation_days(world.partition)[0]
    table = toolbox.examples(day)
    place = table.schema.get_field_index("item_age_days")
    leaking = table.set_column(place, "item_age_days", table["label_ctr"].cast("float"))
    with Lake(world.settings) as lake:
        lake.replace_days("features.examples_tiny", leaking, [day])
        rows = measure_leaks(lake, world.surface, [day], evaluation, "student")
        lake.replace_days("features.examples_tiny", table, [day])
        healthy = measure_leaks(lake, world.surface, [day], evaluation, "student")
    suite = leaks_suite(world.surface.gate.provenance, ["ctr"])
    (check,) = gx.validate(rows, suite)
    assert (check.outcome, check.detail) == (Outcome.FAIL, "item_age_days")
    assert gx.validate(healthy, suite)[0].outcome is Outcome.PASS


def _of(kind: str, reference: str | None, task: str = "ctr", metric: str = "auc"):
    return lambda r: (r.model, r.reference, r.task, r.metric, r.slice) == (kind, reference, task, metric, "all")


@pytest.mark.parametrize(
    ("reference", "values", "check"),
    [
        (None, {"value": 0.55}, "ctr_auc"),
        (None, {"value": float("nan")}, "ctr_auc"),
        ("baseline", {"value": -0.001, "lo": -0.1, "hi": 0.1}, "ctr_auc_minus_baseline"),
    ],
)
def test_quality_below_its_bounds_fails(world, evaluation, store, reference, values, check: str) -> None:
    kind = Manifest.from_bytes(world.candidate.read("manifest.json"), "m").kind
    verdict = _judge(world, _changed(evaluation, _of(kind, reference), **values), store)
    assert verdict.decision == "fail"
    assert _failed(verdict, 3) == {check}
    with pytest.raises(PromotionRefused) as refused:
        key = store.verdict_key(world.surface, world.candidate)
        store.promote("tiny", Proposal(world.candidate, key, world.partition, "t", "r"))
    assert refused.value.code is Refusal.VERDICT_FAILED


@pytest.mark.parametrize(
    ("metric", "value"), [("ece", 0.3), ("predicted_over_observed", 3.0), ("predicted_over_observed", 0.1)]
)
def test_bad_calibration_fails(world, evaluation, store, metric: str, value: float) -> None:
    kind = Manifest.from_bytes(world.candidate.read("manifest.json"), "m").kind
    verdict = _judge(world, _changed(evaluation, _of(kind, None, metric=metric), value=value), store)
    assert _failed(verdict, 5) == {f"ctr_{metric}"}


def test_the_wrong_one_of_student_and_control_fails(world, evaluation, store) -> None:
    kind = Manifest.from_bytes(world.candidate.read("manifest.json"), "m").kind
    sign = 1 if kind == "control" else -1
    turned = _changed(
        evaluation,
        lambda r: (r.model, r.reference, r.slice) == ("student", "control", "all") and r.metric in ("auc", "r2"),
        value=sign * 0.2,
        lo=min(sign * 0.1, sign * 0.3),
        hi=max(sign * 0.1, sign * 0.3),
    )
    assert "candidate" in _failed(_judge(world, turned, store), 3)


def test_a_figure_that_was_not_computed_fails_its_guard(world, evaluation, store) -> None:
    bare = replace(evaluation, results=tuple(r for r in evaluation.results if r.metric != "ece"))
    verdict = _judge(world, bare, store)
    assert verdict.guard(5).outcome is Outcome.FAIL
    assert "was not evaluated for" in verdict.guard(5).reason


def _rows(task: str, comparison: str, value: float, lo: float, hi: float, **more: Any) -> dict[str, Any]:
    cell = {"task": task, "comparison": comparison, "metric": "auc", "value": value, "lo": lo, "hi": hi}
    return cell | {"n": 1000, "positives": 100} | more


@pytest.mark.parametrize(
    ("value", "lo", "hi", "outcome"),
    [
        (0.01, -0.01, 0.03, "pass"),
        (-0.06, -0.1, -0.01, "fail"),
        (-0.06, -0.2, 0.1, "inconclusive"),
        (-0.02, -0.03, -0.01, "inconclusive"),
        (0.0, -0.1, 0.1, "inconclusive"),
        (-0.02, -0.06, 0.02, "warn"),
    ],
)
def test_the_champion_is_compared_by_interval_and_margin(world, value, lo, hi, outcome: str) -> None:
    from checks import gx
    from checks.suites.quality import quality_suite

    rows = [_rows("ctr", "champion", value, lo, hi)]
    (check,) = gx.validate(rows, quality_suite(world.surface.gate.quality, rows))
    assert check.outcome == outcome


@pytest.mark.parametrize(
    ("value", "lo", "hi", "outcome"),
    [
        (0.0, -0.05, 0.05, "pass"),
        (-0.07, -0.11, 0.01, "warn"),
        (-0.12, -0.3, 0.1, "inconclusive"),
        (-0.12, -0.2, -0.1, "fail"),
        (-0.02, -0.03, -0.01, "inconclusive"),
        (0.0, -0.4, 0.4, "warn"),
    ],
)
def test_slow_decay_is_bounded_by_a_cumulative_margin_against_the_reference(world, value, lo, hi, outcome: str) -> None:
    from checks import gx
    from checks.suites.quality import quality_suite

    rows = [_rows("ctr", "reference", value, lo, hi)]
    (check,) = gx.validate(rows, quality_suite(world.surface.gate.quality, rows))
    assert (check.name, check.outcome) == ("ctr_auc_minus_reference", outcome)
    assert ">= -0.1" in check.threshold, "two margins of 0.05"


def test_a_confirmed_release_that_no_longer_serves_is_scored_and_must_have_been(world, evaluation, tmp_path) -> None:
    from ml.stages.evaluation import _released_models
    from ml.store.verdicts import Override

    settings = world.settings.model_copy(update={"home": tmp_path})
    store = ReleaseStore(settings.artifacts_dir)
    first = _promoted(world, evaluation, store, world.candidate)
    store.confirm("tiny", by="test", reason="looks right")
    assert set(_released_models(settings, world.surface)) == {"champion"}, "the reference serves"
    config = world.candidate.read("config.pbtxt")
    other = _variant(world, store, {"config.pbtxt": config + b"# another model, for the store\n"})
    _promoted(world, evaluation, store, other, Override(by="test", reason="to have a newer champion"))
    released = _released_models(settings, world.surface)
    assert set(released) == {"champion", "reference"}
    assert released["reference"][0] == store.release("tiny", first).manifest.onnx_sha256
    verdict = _judge(world, evaluation, store, candidate=_variant(world, store, seed=6))
    assert "evaluated reference" in _failed(verdict, 10)


def _promoted(world, evaluation, store, candidate, override=None) -> str:
    _judge(world, evaluation, store, candidate=candidate)
    key = store.verdict_key(world.surface, candidate)
    pointer = store.promote("tiny", Proposal(candidate, key, world.partition, "t", "r"), override=override)
    return pointer.release


@pytest.mark.parametrize(
    ("row", "outcome"),
    [
        (_rows("ctr", "absolute", 0.7, 0.6, 0.8), Outcome.PASS),
        (_rows("ctr", "absolute", 0.3, 0.2, 0.4), Outcome.FAIL),
        (_rows("ctr", "absolute", 0.4, 0.2, 0.6), Outcome.WARN),
        (_rows("ctr", "absolute", 0.3, 0.2, 0.4, n=10), Outcome.WARN),
        (_rows("ctr", "absolute", 0.3, 0.2, 0.4, positives=3), Outcome.WARN),
        (_rows("ctr", "champion", -0.2, -0.3, -0.1), Outcome.FAIL),
        (_rows("ctr", "champion", 0.0, -0.5, 0.5), Outcome.WARN),
        (_rows("ctr", "champion", 0.0, -0.1, 0.1), Outcome.PASS),
    ],
)
def test_slices_have_a_wider_margin_and_doubt_is_a_warning(world, row: dict[str, Any], outcome: Outcome) -> None:
    from checks import gx
    from checks.suites.slices import slices_suite

    rows = [row | {"slice": "new_releases"}]
    gate = world.surface.gate
    assert gx.worst(gx.validate(rows, slices_suite(gate.slices, gate.quality, rows))) is outcome


def test_a_file_that_is_no_onnx_fails(world, evaluation, store) -> None:
    verdict = _judge(world, evaluation, store, candidate=_variant(world, store, {"model.onnx": b"no model"}))
    assert verdict.guard(7).outcome is Outcome.FAIL
    assert "could not be evaluated" in verdict.guard(7).reason


def _edited(world, tmp_path, edit: Callable[[Any], None]):
    import onnx

    model = onnx.load_model_from_string(world.candidate.read("model.onnx"))
    edit(model.graph)
    path = tmp_path / "edited.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def _fix_batch(graph: Any) -> None:
    graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4


def _keep_head(graph: Any) -> None:
    graph.initializer[0].name = "distillation.heads.click.weight"


def _rename_input(graph: Any) -> None:
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name == graph.input[0].name:
                node.input[i] = "other"
    graph.input[0].name = "other"


def _drop_output(graph: Any) -> None:
    del graph.output[-1]


@pytest.mark.parametrize(
    ("edit", "check"),
    [
        (_fix_batch, "batch_is_symbolic"),
        (_keep_head, "no_distillation_head"),
        (_rename_input, "inputs_as_declared"),
        (_drop_output, "outputs_as_declared"),
    ],
)
def test_a_graph_that_is_not_what_it_must_be_fails(world, tmp_path, edit, check: str) -> None:
    from checks import gx
    from checks.suites.onnx import graph_suite
    from ml.gate.model import measure_onnx

    rows = measure_onnx(world.surface, _edited(world, tmp_path, edit))
    failed = {c.name for c in gx.validate(rows, graph_suite(rows)) if c.outcome is Outcome.FAIL}
    assert check in failed


def test_a_graph_that_computes_something_else_than_the_checkpoint_fails(world, tmp_path) -> None:
    import numpy as np
    from onnx import numpy_helper

    from checks import gx
    from checks.suites.onnx import parity_suite
    from ml.gate.data import example_rows
    from ml.gate.model import measure_parity
    from ml.lake import Lake
    from ml.stages.artifacts import artifact_name

    def shift(graph: Any) -> None:
        for tensor in graph.initializer:
            if tensor.name.endswith("bias"):
                values = numpy_helper.to_array(tensor)
                tensor.CopyFrom(numpy_helper.from_array((values + 0.1).astype(np.float32), tensor.name))

    manifest = Manifest.from_bytes(world.candidate.read("manifest.json"), "m")
    artifacts = ArtifactStore(world.settings.artifacts_dir)
    checkpoint = artifacts.get(
        artifact_name(world.surface, manifest.kind), str(world.partition), manifest.checkpoint_sha256
    )
    path = _edited(world, tmp_path, shift)
    with Lake(world.settings) as lake:
        real = example_rows(lake, world.surface, manifest.eval_days, order="exposure_id", limit=64)
    rows = measure_parity(world.surface, path, checkpoint, real, max_batch=64)
    assert [row["n"] for row in rows] == [1, 2, 21, 64, 64, 64]
    checks = gx.validate(rows, parity_suite(world.surface.gate.onnx, rows))
    assert all(check.outcome is Outcome.FAIL for check in checks)


def test_another_checkpoint_than_the_manifests_fails(world, evaluation, store) -> None:
    other = ArtifactStore(store.files.root).put("x", "p", {"model.safetensors": b"1"})
    verdict = _judge(world, evaluation, store, checkpoint=other)
    assert "is not the manifest's" in verdict.guard(7).reason


def test_a_file_that_is_too_large_fails(world) -> None:
    from checks import gx
    from checks.suites.onnx import size_suite

    gate = world.surface.gate.onnx
    outcomes = [gx.validate([{"megabytes": m}], size_suite(gate))[0].outcome for m in (1.0, gate.max_megabytes + 0.1)]
    assert outcomes == [Outcome.PASS, Outcome.FAIL]


def test_against_a_champion_the_evaluation_must_have_scored_it(world, evaluation, store) -> None:
    verdict = _judge(world, evaluation, store)
    assert verdict.decision == "pass"
    key = store.verdict_key(world.surface, world.candidate)
    pointer = store.promote("tiny", Proposal(world.candidate, key, world.partition, "t", "r"))
    again = _variant(world, store, seed=5)
    verdict = _judge(world, evaluation, store, candidate=again)
    assert verdict.key.champion == pointer.release
    assert verdict.guard(3).outcome is Outcome.FAIL
    assert f"before {pointer.release} was champion: materialize `evaluation` again" in verdict.guard(3).reason
    assert "evaluated champion" in _failed(verdict, 10)
    assert verdict.guard(9).outcome is Outcome.PASS
    assert verdict.guard(6).outcome is Outcome.WARN, "the same scores, but too few users for their rankings"
    values = {check.name: check.value for check in verdict.guard(6).checks}
    assert values["psi_ctr"] == 0 and values["users_with_enough_rows"] < 50
    [speed] = [check for check in verdict.guard(8).checks if check.name == "speed_over_champions"]
    assert speed.interval is not None and speed.interval[0] <= speed.value <= speed.interval[1]
    (store.files.root / f"releases/tiny/{pointer.release}/model.onnx").write_bytes(b"rot")
    assert _judge(world, evaluation, store, candidate=again).guard(9).outcome is Outcome.FAIL


def _scaled(world, tmp_path, factor: float, offset: float = 0.0):
    """The candidate as a model whose logits are another affine map; nothing else differs."""
    import numpy as np
    from onnx import helper, numpy_helper

    from ml.serving.model import Model

    def change(graph: Any) -> None:
        for output in ("ctr", "score"):
            graph.initializer.append(numpy_helper.from_array(np.float32(factor), f"{output}_factor"))
            graph.initializer.append(numpy_helper.from_array(np.float32(offset), f"{output}_offset"))
            for node in graph.node:
                node.output[:] = [f"{output}_raw" if name == output else name for name in node.output]
                node.input[:] = [f"{output}_raw" if name == output else name for name in node.input]
            graph.node.append(helper.make_node("Mul", [f"{output}_raw", f"{output}_factor"], [f"{output}_scaled"]))
            graph.node.append(helper.make_node("Add", [f"{output}_scaled", f"{output}_offset"], [output]))

    path = _edited(world, tmp_path, change)
    return Model(path.read_bytes(), world.candidate.read("schema.json"))


@pytest.mark.parametrize(
    ("factor", "offset", "failed"),
    [
        (1.0, 0.0, set()),
        (1.0, 2.0, {"psi_ctr", "psi_score"}),
        (0.0, 0.3, {"psi_ctr", "psi_score"}),
        (-1.0, 0.0, {"psi_ctr", "psi_score", "top_2_overlap"}),
    ],
)
def test_scores_that_jump_against_the_champion_fail(world, tmp_path, factor, offset, failed: set[str]) -> None:
    from checks import gx
    from checks.suites.shift import shift_suite
    from ml.gate.shift import measure_shift
    from ml.lake import Lake
    from ml.serving.model import Model

    champion = Model(world.candidate.read("model.onnx"), world.candidate.read("schema.json"))
    gate = world.surface.gate.shift.model_copy(update={"top": 2, "min_users": 10})
    with Lake(world.settings) as lake:
        days = world.surface.evaluation_days(world.partition)
        candidate = _scaled(world, tmp_path, factor, offset)
        rows = measure_shift(lake, world.surface, candidate, champion, days, top=gate.top)
    checks = gx.validate(rows, shift_suite(gate, rows))
    assert failed <= {c.name for c in checks if c.outcome is Outcome.FAIL} if failed else gx.worst(checks) == "pass"
    assert {c.n for c in checks if c.name.startswith("psi")} == {800}


def test_the_feature_schema_of_another_surface_fails(world, evaluation, store) -> None:
    schema = json.loads(world.candidate.read("schema.json"))
    schema["inputs"][0]["default"] = 7.0
    other = _variant(world, store, {"schema.json": json.dumps(schema).encode()})
    assert _failed(_judge(world, evaluation, store, candidate=other), 8) == {"feature_schema"}


def test_a_model_that_a_clean_process_cannot_serve_fails_with_its_reason(world, evaluation, store) -> None:
    verdict = _judge(world, evaluation, store, candidate=_variant(world, store, {"model.onnx": b"no model"}))
    assert verdict.guard(8).outcome is Outcome.FAIL
    assert "a clean process ended with 1" in verdict.guard(8).reason
    assert "onnxruntime cannot load the graph" in verdict.guard(8).reason


@pytest.mark.parametrize(
    ("row", "failed"),
    [
        ({}, set()),
        ({"ready_s": 61.0}, {"seconds_to_first_answer"}),
        ({"milliseconds": 21.0}, {"milliseconds_of_200_rows"}),
        ({"value": 0.3, "lo": 0.2, "hi": 0.4}, {"speed_over_champions"}),
        ({"value": 0.45, "lo": 0.3, "hi": 0.6}, set()),
    ],
)
def test_a_slow_model_fails(world, row: dict[str, float], failed: set[str]) -> None:
    from checks import gx
    from checks.suites.serving import serving_suite

    sound = {"ready_s": 1.0, "milliseconds": 0.4, "value": 1.0, "lo": 0.9, "hi": 1.1, "n": 300}
    checks = gx.validate([sound | row], serving_suite(world.surface.gate.serving, champion=True))
    assert {c.name for c in checks if c.outcome is Outcome.FAIL} == failed
