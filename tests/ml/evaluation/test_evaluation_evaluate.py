"""Every figure of an evaluation is recomputed from the predictions table with scikit-learn; weak cells are flagged."""

import json
import math
from dataclasses import replace
from datetime import date, timedelta
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from scipy.special import expit
from sklearn import metrics as sk

from ml.evaluation import metrics, plots
from ml.evaluation.choice import choose_candidate
from ml.evaluation.evaluate import compute_evaluation, evaluate
from ml.evaluation.frame import history_slices
from ml.evaluation.measures import COMPARISONS
from ml.evaluation.predictions import PredictionError, student_predictions, write_predictions
from ml.evaluation.report import markdown_summary, surface_report
from ml.evaluation.results import RANKING, Evaluation
from ml.surfaces.spec import HISTORY_SLICES, Surface
from tests.support.known import present

SLICES = {
    "all": lambda e: np.ones(len(e), bool),
    "new_releases": lambda e: (e.item_age_days <= 7).to_numpy(),
    "new_users": lambda e: (e.user_tenure_days <= 7).to_numpy(),
    "tail_items": lambda e: (e.item_impressions < 50).to_numpy(),
    "few_training_rows": lambda e: (e.training_rows <= _thirds(e)[0]).to_numpy(),
    "some_training_rows": lambda e: ((e.training_rows > _thirds(e)[0]) & (e.training_rows <= _thirds(e)[1])).to_numpy(),
    "many_training_rows": lambda e: (e.training_rows > _thirds(e)[1]).to_numpy(),
}


def _thirds(e: pd.DataFrame) -> tuple[float, float]:
    """Return the numbers of training rows at which a third and two thirds of the users end."""
    rows = sorted(e.groupby("user_id").training_rows.first())
    return rows[(len(rows) - 1) // 3], rows[2 * (len(rows) - 1) // 3]


@lru_cache
def tables(world: Any) -> tuple[pd.DataFrame, dict[tuple[str, ...], pd.DataFrame]]:
    """Read the examples of the evaluation days, and the predictions by model, task and inputs."""
    days = [world.partition - timedelta(days=d) for d in (3, 2, 1)]
    examples = world.lake.sql("select * from lake.features.examples_homepage").to_pandas()
    examples = examples[pd.to_datetime(examples.day).dt.date.isin(days)]
    predictions = world.lake.sql(
        "select exposure_id, model, task, inputs, score from lake.ml.predictions_homepage where partition = ?",
        [world.partition],
    ).to_pandas()
    learnt = world.lake.sql("select user_id from lake.features.examples_homepage where day < ?", [days[0]]).to_pandas()
    examples["training_rows"] = examples.user_id.map(learnt.user_id.value_counts()).fillna(0)
    return examples, {
        key: group[["exposure_id", "score"]] for key, group in predictions.groupby(["model", "task", "inputs"])
    }


@lru_cache
def rows_of(world: Any, model: str, task: str, name: str, inputs: str) -> pd.DataFrame:
    """Return the rows that a figure stands on, in pandas: labelled, scored, in the slice, on evaluation days."""
    examples, predictions = tables(world)
    joined = examples[SLICES[name](examples)].merge(predictions[model, task, inputs], on="exposure_id")
    return joined.assign(label=joined[f"label_{task}"]).dropna(subset=["label", "score"])


def by_scikit_learn(metric: str, e: pd.DataFrame) -> float | None:
    """Recompute one metric the plain way; None where scikit-learn has no such metric."""
    y, s = e.label.to_numpy(), e.score.to_numpy()
    match metric:
        case "auc":
            return sk.roc_auc_score(y, s)
        case "log_loss":
            return sk.log_loss(y, expit(s))
        case "predicted_over_observed":
            return expit(s).sum() / y.sum()
        case "r2":
            return sk.r2_score(y, s)
        case "r2_affine":
            return np.corrcoef(y, s)[0, 1] ** 2
        case "rmse":
            return sk.root_mean_squared_error(y, s)
        case "gauc":
            users = [g for _, g in e.groupby("user_id") if g.label.nunique() == 2]
            return np.average([sk.roc_auc_score(g.label, g.score) for g in users], weights=[len(g) for g in users])
        case "ndcg_10":
            sessions = [g for _, g in e.groupby("session_id") if g.label.sum() > 0]
            return float(np.mean([1.0 if len(g) == 1 else sk.ndcg_score([g.label], [g.score], k=10) for g in sessions]))
        case _:
            return None


@pytest.mark.slow
def test_every_figure_of_every_model_is_recomputed_from_the_predictions(world: Any) -> None:
    checked = 0
    for r in world.evaluation.results:
        if r.reference is not None:
            continue
        e = rows_of(world, r.model, r.task, r.slice, r.inputs)
        assert (r.n, r.users) == (len(e), e.user_id.nunique()), r
        held = e.user_id.value_counts()
        assert r.effective_users == pytest.approx(held.sum() ** 2 / (held**2).sum()), r
        assert r.positive_users == e[(e.label == 1) | (r.task == "trail")].user_id.nunique(), r
        assert r.positives == (int(e.label.sum()) if r.task != "trail" else len(e)), r
        if r.metric in ("gauc", "ndcg_10") and (r.inputs == "logged" or r.slice not in ("all", "new_releases")):
            continue  # scikit-learn takes a call per user or session
        expected = by_scikit_learn(r.metric, e)
        if expected is not None:
            assert r.value == pytest.approx(expected, abs=1e-9), r
            checked += 1
    assert checked > 250


@pytest.mark.slow
def test_every_difference_is_that_of_its_models_on_the_rows_both_have(world: Any) -> None:
    pairs = set()
    for r in world.evaluation.results:
        if r.reference is None or r.metric not in ("auc", "r2"):
            continue
        a, b = (rows_of(world, m, r.task, r.slice, r.inputs) for m in (r.model, r.reference))
        both = set(a.exposure_id) & set(b.exposure_id)
        values = [present(by_scikit_learn(r.metric, e.loc[e.exposure_id.isin(both)])) for e in (a, b)]
        assert r.value == pytest.approx(values[0] - values[1], abs=1e-9), r
        assert r.n == len(both)
        assert r.lo <= r.value <= r.hi
        pairs.add((r.model, r.reference))
    assert pairs == {pair for pair in COMPARISONS if "incumbent" not in pair}, "which landed no score here"


@pytest.mark.slow
def test_the_report_holds_the_same_figures_in_the_shape_of_the_demo(world: Any) -> None:
    report = surface_report(
        world.evaluation,
        world.surface,
        rows={"train": 1000, "test": world.evaluation.rows},
        defaulted_input_share=0.4,
        parameters={"teacher": 10, "student": 5},
        verdict={"decision": "fail", "path": "verdict.json"},
        release=None,
    )
    report = json.loads(json.dumps(report, allow_nan=False))
    assert report["rows"] == {"train": 1000, "test": world.evaluation.rows}
    assert report["release"] is None
    assert list(report["slices"]) == list(SLICES)[1:]
    groups = {"all": report["tasks"]} | report["slices"]
    for name, tasks in groups.items():
        assert list(tasks) == ["ctr", "trail", "discovery"]
        for task, headline in tasks.items():
            for inputs, figures in (("serving", headline), ("logged", headline["logged"])):
                for model in ("teacher", "control", "student"):
                    if model == "teacher" and task == "discovery":
                        assert figures[model] is None
                        continue
                    expected = by_scikit_learn(figures["metric"], rows_of(world, model, task, name, inputs))
                    assert figures[model] == pytest.approx(expected, abs=1e-9)
                assert figures["delta"] == pytest.approx(figures["student"] - figures["control"])
                assert figures["delta_lo"] < figures["delta"] < figures["delta_hi"]
                assert {"n", "positives"} <= set(figures)
    assert report["tasks"]["ctr"]["student"] != report["tasks"]["ctr"]["logged"]["student"]


@pytest.mark.slow
def test_the_tidy_table_in_the_lake_holds_every_result_and_is_replaced_by_a_rerun(world: Any) -> None:
    before = world.lake.content_hash("lake.ml.evaluation_homepage")
    assert before[0] == len(world.evaluation.results)
    again = evaluate(
        world.lake,
        world.surface,
        world.partition,
        teacher_outputs=world.kinds,
        seed=world.seed,
        replicates=world.replicates,
    )
    assert world.lake.content_hash("lake.ml.evaluation_homepage") == before
    assert again.to_json() == world.evaluation.to_json()
    stored = world.lake.sql(
        "select value, lo from lake.ml.evaluation_homepage where model = 'student' and reference = 'control' "
        "and task = 'ctr' and slice = 'all' and metric = 'auc' and inputs = 'serving'"
    ).to_pylist()
    difference = world.evaluation.difference("student", "control", "ctr")
    assert stored == [{"value": difference.estimate, "lo": difference.lo}]


@pytest.mark.slow
def test_another_seed_moves_intervals_and_no_estimate(world: Any) -> None:
    other = compute_evaluation(
        world.lake, world.surface, world.partition, teacher_outputs=world.kinds, seed=99, replicates=world.replicates
    )
    a, b = (e.difference("student", "control", "ctr") for e in (world.evaluation, other))
    assert a.estimate == b.estimate
    assert a.lo != b.lo
    assert a.lo == pytest.approx(b.lo, abs=0.5 * a.se)


@pytest.mark.slow
def test_json_gives_the_evaluation_back(world: Any) -> None:
    text = world.evaluation.to_json()
    back = Evaluation.from_json(text)
    assert back.to_json() == text
    assert back.difference("student", "control", "trail") == world.evaluation.difference("student", "control", "trail")


def test_an_evaluation_says_what_could_be_had_from_the_teacher_and_which_share_the_student_keeps(world: Any) -> None:
    found = {transfer.task: transfer for transfer in world.evaluation.transfer}
    assert list(found) == list(world.surface.tasks), (
        "discovery has no counterpart, and is stacked with the others' scores"
    )
    ctr, gain = found["ctr"], world.evaluation.difference("student", "control", "ctr")
    assert ctr.metric == "auc" and ctr.stacked_lo > 0
    assert ctr.kept == pytest.approx(gain.estimate / ctr.stacked, rel=0.05) and ctr.kept_lo < ctr.kept < ctr.kept_hi
    report = surface_report(
        world.evaluation, world.surface, rows={}, defaulted_input_share=None, parameters={}, verdict=None, release=None
    )
    transfer = report["tasks"]["ctr"].get("transfer")
    assert transfer and transfer["stacked"] == ctr.stacked
    told = markdown_summary(world.evaluation, world.surface)
    assert f"- ctr: control and teacher stacked +{100 * ctr.stacked:.2f} [" in told and "the student keeps" in told


def test_an_evaluation_of_an_older_version_has_no_share_and_is_read(world: Any) -> None:
    content = json.loads(world.evaluation.to_json())
    del content["transfer"], content["inputs"]
    old = Evaluation.from_json(json.dumps(content))
    assert old.transfer == () == old.inputs and old.results[0].model == world.evaluation.results[0].model


def test_a_difference_turns_round_with_its_interval(world: Any) -> None:
    d, turned = (world.evaluation.difference(*pair, "ctr") for pair in (("student", "control"), ("control", "student")))
    assert (turned.estimate, turned.lo, turned.hi, turned.se) == (-d.estimate, -d.hi, -d.lo, d.se)


def test_what_was_not_computed_is_named(world: Any) -> None:
    assert not world.evaluation.has("teacher", "discovery")
    with pytest.raises(KeyError, match=r"teacher.*discovery"):
        world.evaluation.metric("teacher", "discovery")
    with pytest.raises(KeyError, match="log_loss"):
        world.evaluation.metric("baseline", "ctr", metric="log_loss")


def test_a_small_slice_is_flagged_with_its_counts_and_still_reported(world: Any) -> None:
    d = world.evaluation.difference("student", "control", "discovery", "new_users")
    assert d.n < 500 and d.positives < 30
    assert d.flag == f"{d.n} rows, fewer than 500; {d.positives} positives, fewer than 30"
    assert world.evaluation.difference("student", "control", "ctr").flag is None
    assert {r.flag is None for r in world.evaluation.results if r.slice == "new_users"} == {False}


@pytest.mark.parametrize("evaluated", [HISTORY_SLICES, ()])
def test_users_are_cut_into_thirds_by_their_training_rows_and_equal_ones_stay_together(evaluated) -> None:
    users = np.array([7, 7, 3, 5, 5, 5, 9, 2, 1])
    rows = np.array([4, 4, 0, 0, 0, 0, 90, 4, 11]) if evaluated else np.zeros(9, int)
    masks, numbers = history_slices(users, rows)
    assert tuple(masks) == tuple(numbers) == evaluated
    if evaluated:
        few, some, many = (set(users[mask].tolist()) for mask in masks.values())
        assert (few, some, many) == ({3, 5}, {7, 2}, {1, 9})
        assert list(numbers.values()) == ["0", "4", "11 to 90"]


@pytest.mark.parametrize("name", ["all", *HISTORY_SLICES])
def test_a_surface_cannot_replace_a_slice_that_every_surface_has(world: Any, name: str) -> None:
    spec = world.surface.model_dump(mode="json", by_alias=True) | {"slices": {name: "item_age_days <= 7"}}
    with pytest.raises(ValueError, match=f"slices.{name}: every surface has a slice of this name"):
        Surface.model_validate(spec)


@pytest.mark.slow
def test_one_evaluated_user_gives_no_interval_instead_of_one_without_width(small_world: Any) -> None:
    lake, surface = small_world()
    lake.connection.execute("update lake.features.examples_homepage set user_id = 1")
    found = compute_evaluation(lake, surface, date(2026, 2, 1), teacher_outputs={}, seed=1, replicates=20)
    d = found.difference("student", "control", "ctr")
    assert (d.users, d.effective_users, d.positive_users) == (1, 1, 1)
    assert math.isnan(d.lo) and math.isnan(d.hi)


@pytest.mark.slow
def test_days_without_a_click_are_evaluated_and_plotted_as_what_they_are(small_world: Any) -> None:
    lake, surface = small_world()
    lake.connection.execute(
        "update lake.features.examples_homepage set label_ctr = 0, label_discovery = 0, label_trail = null"
    )
    found = compute_evaluation(lake, surface, date(2026, 2, 1), teacher_outputs={}, seed=1, replicates=20)
    for task in surface.tasks:
        figure = found.result("student", task)
        assert (figure.positives, figure.positive_users) == (0, 0) and math.isnan(figure.value)
    assert Evaluation.from_json(found.to_json()).to_json() == found.to_json()
    assert set(plots.figures(found)) >= {"deltas", "slices", "calibration_ctr", "scores_ctr"}


@pytest.mark.slow
def test_an_empty_slice_is_flagged_and_stands_as_null(small_world: Any) -> None:
    lake, surface = small_world()
    surface = surface.model_copy(update={"slices": {"nobody": "user_tenure_days < 0"}})
    found = evaluate(lake, surface, date(2026, 2, 1), teacher_outputs={}, seed=1, replicates=20)
    result = found.result("student", "ctr", "nobody")
    assert math.isnan(result.value) and result.n == 0 and present(result.flag).startswith("0 rows")
    stored = lake.sql("select distinct value from lake.ml.evaluation_homepage where slice = 'nobody'").to_pylist()
    assert stored == [{"value": None}]
    assert Evaluation.from_json(found.to_json()).to_json() == found.to_json()


@pytest.mark.slow
def test_the_teacher_counts_only_where_its_contract_has_the_output(world: Any) -> None:
    value_only = compute_evaluation(
        world.lake, world.surface, world.partition, teacher_outputs={"click": "value"}, seed=1, replicates=20
    )
    assert value_only.has("teacher", "ctr") and not value_only.has("teacher", "trail")
    assert not value_only.computed("teacher", "ctr", "all", "log_loss", "serving")
    assert world.evaluation.computed("teacher", "ctr", "all", "log_loss", "serving")


def test_an_affine_map_of_the_teacher_changes_its_r2_and_not_its_affine_bound(world: Any) -> None:
    e = rows_of(world, "teacher", "trail", "all", "serving")
    raw, bound = (world.evaluation.metric("teacher", "trail", metric=m) for m in ("r2", "r2_affine"))
    assert raw < 0 < bound
    slope, offset = np.polyfit(e.score, e.label, 1)
    assert bound == pytest.approx(sk.r2_score(e.label, slope * e.score + offset))


def test_the_ranking_score_orders_sessions_of_every_binary_task(world: Any) -> None:
    e = rows_of(world, "student", "ctr", "all", "serving")
    rank = world.lake.sql(
        "select exposure_id, score as rank from lake.ml.predictions_homepage "
        "where model = 'student' and task = 'score' and inputs = 'serving'"
    ).to_pandas()
    e = e.merge(rank, on="exposure_id")
    expected = metrics.ndcg(e.label.to_numpy(), e["rank"].to_numpy(), e.session_id.to_numpy())
    assert world.evaluation.metric("student", "ctr", metric="rank_ndcg_10") == pytest.approx(expected)


def test_calibration_and_histograms_count_every_row(world: Any) -> None:
    r = world.evaluation.result("student", "ctr")
    curve, histogram = (f("student", "ctr") for f in (world.evaluation.calibration_of, world.evaluation.histogram_of))
    assert sum(curve.rows) == r.n
    assert np.dot(curve.rows, curve.observed) == pytest.approx(r.positives)
    assert (sum(histogram.positives), sum(histogram.negatives)) == (r.positives, r.n - r.positives)


def with_differences(
    evaluation: Evaluation,
    bounds: dict[str, tuple[float, float]],
    metrics: frozenset[str] = frozenset({"auc", "r2"}),
) -> Evaluation:
    """Replace the serving intervals of student - control on all rows."""
    rows = tuple(
        replace(r, lo=bounds[r.task][0], hi=bounds[r.task][1])
        if (r.model, r.reference, r.slice, r.inputs) == ("student", "control", "all", "serving")
        and r.metric in metrics
        and r.task in bounds
        else r
        for r in evaluation.results
    )
    return replace(evaluation, results=rows)


LOST, OPEN, GAINED = (-0.02, -0.01), (-0.01, 0.02), (0.01, 0.02)


@pytest.mark.parametrize(
    ("ctr", "trail", "discovery", "expected"),
    [
        (GAINED, GAINED, OPEN, "student"),
        (OPEN, OPEN, OPEN, "student"),
        (LOST, OPEN, OPEN, "control"),
        (OPEN, OPEN, LOST, "control"),
        (GAINED, OPEN, LOST, "student"),
    ],
)
def test_the_control_is_the_candidate_where_it_is_better_and_the_student_nowhere(
    world: Any, ctr: tuple[float, float], trail: tuple[float, float], discovery: tuple[float, float], expected: str
) -> None:
    bounds = {"ctr": ctr, "trail": trail, "discovery": discovery}
    same_order = with_differences(world.evaluation, {"ctr": OPEN}, frozenset({RANKING}))
    assert choose_candidate(with_differences(same_order, bounds), world.surface) == expected


@pytest.mark.parametrize(("ctr", "trail"), [(LOST, GAINED), (GAINED, LOST)])
def test_a_task_of_rank_by_that_is_lost_vetoes_the_student_whatever_it_gains(
    world: Any, ctr: tuple[float, float], trail: tuple[float, float]
) -> None:
    bounds = {"ctr": ctr, "trail": trail, "discovery": GAINED}
    assert world.surface.rank_by == "sigmoid(ctr) * exp(clip(trail - 5, -2, 3))"
    assert choose_candidate(with_differences(world.evaluation, bounds), world.surface) == "control"


def test_a_student_whose_order_is_worse_is_not_the_candidate_whatever_its_tasks_gain(world: Any) -> None:
    bounds: dict[str, tuple[float, float]] = dict.fromkeys(("ctr", "trail", "discovery"), GAINED)
    ranked = with_differences(world.evaluation, {"ctr": LOST}, frozenset({RANKING}))
    assert choose_candidate(with_differences(ranked, bounds), world.surface) == "control"


@pytest.mark.slow
def test_rows_without_a_session_are_ranked_by_user_and_day(small_world: Any) -> None:
    lake, surface = small_world()
    partition = date(2026, 2, 1)
    lake.connection.execute("update lake.features.examples_homepage set session_id = null where user_id > 10")
    found = compute_evaluation(lake, surface, partition, teacher_outputs={}, seed=1, replicates=20)
    e = lake.sql(
        "select e.*, p.score as rank from lake.features.examples_homepage as e join lake.ml.predictions_homepage as p "
        "using (exposure_id) where p.model = 'student' and p.task = 'score' and p.inputs = 'serving'"
    ).to_pandas()
    lists = e.session_id.fillna(-1).astype(str) + [
        f"{u} {d}" if s else "" for u, d, s in zip(e.user_id, e.day, e.session_id.isna(), strict=True)
    ]
    expected = metrics.ndcg(e.label_ctr.to_numpy(), e["rank"].to_numpy(), pd.factorize(lists)[0])
    assert found.metric("student", "ctr", metric=RANKING) == pytest.approx(expected)


@pytest.mark.slow
def test_identical_models_differ_by_exactly_zero_everywhere(small_world: Any) -> None:
    lake, surface = small_world()
    partition = date(2026, 2, 1)
    rows = lake.sql("select * from lake.ml.predictions_homepage where model = 'control'")
    twin = rows.set_column(3, "model", pa.array(["student"] * rows.num_rows))
    write_predictions(lake, "homepage", partition, twin)
    found = evaluate(lake, surface, partition, teacher_outputs={}, seed=1, replicates=50)
    pairs = [r for r in found.results if (r.model, r.reference) == ("student", "control")]
    assert pairs
    for r in pairs:
        assert math.isnan(r.value) or (r.value, r.lo, r.hi, r.se) in ((0, 0, 0, 0),) or math.isnan(r.se), r


@pytest.mark.slow
def test_predictions_that_do_not_cover_the_evaluation_days_are_refused(small_world: Any) -> None:
    lake, surface = small_world()
    partition = date(2026, 2, 1)

    def run() -> None:
        compute_evaluation(lake, surface, partition, teacher_outputs={}, seed=1, replicates=20)

    rows = lake.sql("select * from lake.ml.predictions_homepage where model = 'student'")
    write_predictions(lake, "homepage", partition, rows.slice(1))
    with pytest.raises(PredictionError, match=r"student of homepage 2026-02-01 lacks \w+ scores .* of 1 of"):
        run()
    write_predictions(lake, "homepage", partition, rows)
    run()
    early = student_predictions(
        {"ctr": np.zeros(1)},
        partition=partition,
        days=np.array(["2026-01-01"], "datetime64[D]"),
        exposure_ids=np.array([1]),
        model="champion",
        model_hash="h",
        inputs="serving",
    )
    write_predictions(lake, "homepage", partition, early)
    with pytest.raises(PredictionError, match=r"1 exposures with predictions of homepage .* are no examples"):
        run()


@pytest.mark.slow
def test_a_partition_without_predictions_and_a_label_that_is_not_binary_are_refused(small_world: Any) -> None:
    lake, surface = small_world()
    with pytest.raises(PredictionError, match="no predictions of 2026-03-01"):
        compute_evaluation(lake, surface, date(2026, 3, 1), teacher_outputs={}, seed=1, replicates=20)
    lake.connection.execute("update lake.features.examples_homepage set label_ctr = 0.5 where label_ctr = 1")
    with pytest.raises(PredictionError, match=r"label_ctr of homepage is no binary label: it holds 0.5"):
        compute_evaluation(lake, surface, date(2026, 2, 1), teacher_outputs={}, seed=1, replicates=20)
