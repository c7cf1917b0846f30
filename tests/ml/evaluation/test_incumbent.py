"""The app's present ranker, by landed scores or its file: a figure, or what a candidate must not lose against."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import onnx
import polars as pl
import pyarrow as pa
import pytest
import yaml
from sklearn.metrics import roc_auc_score

from checks import gx
from checks.guards.quality import against_incumbent, measure, suite
from ml.evaluation.evaluate import evaluate
from ml.evaluation.incumbent import IncumbentError, incumbent_predictions, incumbent_scores
from ml.evaluation.outcome import Outcome
from ml.evaluation.predictions import largest_differences, stored_scores, write_predictions
from ml.evaluation.report import markdown_summary
from ml.evaluation.results import Evaluation
from ml.foundation.documents import load_yaml
from ml.foundation.ids import id63_array
from ml.foundation.lake import Lake
from ml.foundation.settings import EXAMPLES
from ml.surfaces.files import load_surface
from ml.surfaces.incumbent import Incumbent
from ml.surfaces.keys import SpecError
from ml.surfaces.spec import Surface
from tests.ml.evaluation.conftest import KINDS, PARTITION, build_world

DAYS = [PARTITION - timedelta(days=days) for days in (3, 2, 1)]
DECLARED = Incumbent.model_validate({"version": "v7", "scores": {"ctr": "p_click", "score": "order"}})
ROWS = 900

Landed = tuple[Lake, Surface, pl.DataFrame]


@pytest.fixture(scope="module")
def landed(tmp_path_factory: pytest.TempPathFactory) -> Landed:
    """A small world whose exposures have landed names, and a ranker that scored nine of ten rows."""
    lake, surface = build_world(tmp_path_factory.mktemp("incumbent"), rows=ROWS, users=60)
    ids = lake.sql("select exposure_id from lake.features.examples_homepage order by 1")["exposure_id"].to_pylist()
    names = pa.table({"old": ids, "name": [f"e{n}" for n in range(ROWS)]})
    lake.connection.register("names", names.append_column("new", pa.array(id63_array(names["name"].to_pylist()))))
    for table in ("features.examples_homepage", "ml.predictions_homepage", "ml.soft_labels_homepage"):
        lake.connection.execute(
            f"update lake.{table} as t set exposure_id = n.new from names as n where exposure_id = old"
        )
    query = (
        "select day, name, label_ctr from lake.features.examples_homepage join names on exposure_id = new order by name"
    )
    rows = pl.DataFrame(lake.sql(query))
    chance = np.random.default_rng(1).random(ROWS) + 0.3 * rows["label_ctr"].to_numpy()
    rows = rows.with_columns(pl.Series("p", chance), pl.Series("scored", np.arange(ROWS) % 10 > 0))
    _land(lake, rows)
    return lake, surface, rows


def _land(lake: Lake, rows: pl.DataFrame) -> None:
    """Land scores: a first try that the next day corrects, the order, and those of another version, of all rows."""
    scored, later = rows.filter("scored"), pl.col("day") + pl.duration(days=1)
    parts = [
        scored.with_columns(score=1 - pl.col("p"), task=pl.lit("p_click"), ranker_version=pl.lit("v7")),
        scored.with_columns(day=later, score=pl.col("p"), task=pl.lit("p_click"), ranker_version=pl.lit("v7")),
        scored.with_columns(score=pl.col("p"), task=pl.lit("order"), ranker_version=pl.lit("v7")),
        rows.with_columns(score=pl.lit(0.5), task=pl.lit("p_click"), ranker_version=pl.lit("v6")),
    ]
    table = pl.concat(
        part.select("day", exposure_id="name", task="task", score="score", ranker_version="ranker_version")
        for part in parts
    )
    lake.replace_days("landing.ranker_scores", table.to_arrow(), table["day"].unique().to_list())


def judged(landed: Landed, incumbent: Incumbent | None, app: Path | None = None) -> tuple[Evaluation, Surface]:
    lake, surface, _ = landed
    surface = surface.model_copy(update={"incumbent": incumbent})
    lake.connection.execute("delete from lake.ml.predictions_homepage where model = 'incumbent'")
    if (rows := incumbent_predictions(lake, surface, PARTITION, DAYS, app)).num_rows:
        write_predictions(lake, surface.name, PARTITION, rows)
    return evaluate(lake, surface, PARTITION, teacher_outputs=KINDS, seed=3, replicates=50), surface


@pytest.fixture(scope="module")
def beside(landed: Landed) -> tuple[Evaluation, Evaluation, Surface]:
    """The evaluation without the ranker and with it, and the surface that declares it."""
    without, _ = judged(landed, None)
    return without, *judged(landed, DECLARED)


def strict(surface: Surface, **changes: object) -> Surface:
    told = DECLARED.model_copy(update={"must_not_lose": True, **changes})
    return surface.model_copy(update={"incumbent": told})


@pytest.mark.slow
def test_its_figures_are_those_of_the_rows_that_it_scored_and_change_no_other(
    landed: Landed, beside: tuple[Evaluation, Evaluation, Surface]
) -> None:
    without, evaluation, surface = beside
    known = landed[2].filter(pl.col("scored") & pl.col("day").is_in(DAYS))
    own = evaluation.metric("incumbent", "ctr")
    assert own == pytest.approx(roc_auc_score(known["label_ctr"], known["p"]))
    assert evaluation.difference("student", "incumbent", "ctr").n == len(known) < evaluation.rows
    assert evaluation.computed("incumbent", "ctr", "all", "rank_ndcg_10", "serving")
    assert not evaluation.computed("incumbent", "ctr", "all", "log_loss", "serving")
    assert not evaluation.has("incumbent", "trail")
    others = [result for result in evaluation.results if "incumbent" not in (result.model, result.reference)]
    assert repr(others) == repr(list(without.results))
    said = markdown_summary(evaluation, surface)
    assert f"present ranker (v7) has AUC {100 * own:.2f}; student - incumbent" in said
    assert f"on the {len(known):,} rows that it scored" in said


@pytest.mark.slow
def test_a_loss_warns_by_default_and_blocks_where_a_candidate_must_not_lose(
    beside: tuple[Evaluation, Evaluation, Surface],
) -> None:
    _, evaluation, surface = beside
    worse, better = (
        replace(
            evaluation,
            results=tuple(
                replace(r, value=sign * 0.2, lo=sign * 0.2 - 0.1, hi=sign * 0.2 + 0.1)
                if (r.model, r.reference) == ("student", "incumbent")
                else r
                for r in evaluation.results
            ),
        )
        for sign in (-1, 1)
    )
    assert [check.outcome for check in against_incumbent(evaluation, surface, "student")] == [Outcome.PASS]
    assert [check.outcome for check in against_incumbent(worse, surface, "student")] == [Outcome.WARN]
    assert not [row for row in measure(worse, surface, "student", champion=False) if row["comparison"] == "incumbent"]
    asked = strict(surface, min_coverage=0.8)
    for found, outcome in ((better, Outcome.PASS), (worse, Outcome.FAIL)):
        rows = [row for row in measure(found, asked, "student", champion=False) if row["comparison"] == "incumbent"]
        assert [row["metric"] for row in rows] == ["auc", "rank_ndcg_10"]
        assert {check.outcome for check in gx.validate(rows, suite(asked.gate.quality, rows))} == {outcome}


@pytest.mark.slow
def test_where_a_candidate_must_not_lose_too_few_scores_block(beside: tuple[Evaluation, Evaluation, Surface]) -> None:
    without, evaluation, surface = beside
    for found, least, outcome in ((evaluation, 0.8, "pass"), (evaluation, 0.95, "fail"), (without, 0.8, "fail")):
        [enough] = against_incumbent(found, strict(surface, min_coverage=least), "student")
        assert (enough.name, str(enough.outcome)) == ("ctr_scored_by_incumbent", outcome), enough
        assert "v7 scored" in enough.detail
    [told] = against_incumbent(without, surface, "student")
    assert told.outcome is Outcome.NOT_EVALUATED
    assert "present ranker (v7) has no score of any evaluation row" in markdown_summary(without, surface)


@pytest.mark.slow
def test_another_version_has_no_part_in_it(landed: Landed) -> None:
    lake, surface, _ = landed
    unknown = surface.model_copy(update={"incumbent": DECLARED.model_copy(update={"version": "v8"})})
    assert incumbent_predictions(lake, unknown, PARTITION, DAYS, None).num_rows == 0


def test_wrong_names_are_told_and_it_changes_no_ranker(tmp_path: Path, landed: Landed) -> None:
    text = (EXAMPLES / "simulator" / "surfaces" / "homepage.yaml").read_text(encoding="utf-8")
    file = tmp_path / "homepage.yaml"
    file.write_text(f"{text}\nincumbent: {{version: v7, scores: {{cttr: p}}, must_not_lose: true}}\n", encoding="utf-8")
    with pytest.raises(
        SpecError, match=r"names 'cttr', which is no task; did you mean 'ctr'\?.*no task that gate\.qual"
    ):
        load_surface(file)
    file.write_text(f"{text}\nincumbent: {{version: v7, scores: {{ctr: p}}}}\n", encoding="utf-8")
    declared = load_surface(file)
    assert declared.ranker_digest == landed[1].ranker_digest and declared.digest != landed[1].digest


RANKER = """
<ir_version: 9, opset_import: ["" : 17]>
ranker (float[n, 2] x, int64[n] age) => (float[n, 2] probabilities, float[n] order) {
    weights = Constant <value = float[2, 2] {-1.0, 1.0, -0.01, 0.01}> ()
    logits = MatMul (x, weights)
    probabilities = Softmax <axis = 1> (logits)
    one = Constant <value = int64 {1}> ()
    after = Add (age, one)
    known = Cast <to = 1> (after)
    order = Log (known)
}
"""
"""probabilities[:, 1] rises with x; order = log(1 + age)."""

FILE = {
    "version": "2026-02",
    "onnx": "today/ranker.onnx",
    "inputs": {"x": ["item_ctr", "user_tenure_days"], "age": {"columns": "item_age_days", "min": 0, "max": 500}},
    "scores": {"ctr": "probabilities[1]", "score": "order"},
}


STORED = "lake.ml.predictions_homepage where model = 'incumbent'"


def default_age(surface: Surface) -> float:
    """What stands for an unknown age: that of the surface's input."""
    return surface.inputs["item_age_days"].default


def placed(app: Path, graph: str = RANKER) -> Path:
    """Write a ranker's file into an app's folder."""
    (app / "today").mkdir(parents=True)
    onnx.save_model(onnx.parser.parse_model(graph), app / "today" / "ranker.onnx")
    return app


def declared(surface: Surface, **changes: object) -> Surface:
    return surface.model_copy(update={"incumbent": Incumbent.model_validate({**FILE, **changes})})


@pytest.mark.slow
def test_a_file_by_columns_scores_every_row_that_it_can_and_stands_where_landed_scores_do(
    landed: Landed, tmp_path: Path
) -> None:
    lake, surface, _ = landed
    app = placed(tmp_path / "app")
    evaluation, told = judged(landed, Incumbent.model_validate(FILE), app)
    rows = pl.DataFrame(lake.sql("select * from lake.features.examples_homepage where day = any(?)", [DAYS]))
    tenure, default = rows["user_tenure_days"].to_numpy(), surface.inputs["item_ctr"].default
    ctr = rows["item_ctr"].fill_nan(None).fill_null(default).to_numpy()
    assert evaluation.metric("incumbent", "ctr") == pytest.approx(
        roc_auc_score(rows["label_ctr"], ctr + tenure / 100), abs=1e-3
    )
    assert evaluation.result("incumbent", "ctr").n == len(rows)
    order = pl.DataFrame(lake.sql(f"select exposure_id, score from {STORED} and task = 'score'"))
    ages = rows.select("exposure_id", age=pl.col("item_age_days").fill_nan(None).fill_null(default_age(surface)))
    joined = order.join(ages, on="exposure_id")
    assert len(joined) == 2 * len(rows), "under both kinds of inputs"
    np.testing.assert_allclose(joined["score"], np.log1p(joined["age"]), rtol=1e-5)
    assert evaluation.models["incumbent"].startswith("onnx:2026-02:") and len(evaluation.models["incumbent"]) > 40
    assert "present ranker (2026-02) has AUC" in markdown_summary(evaluation, told)
    [check] = against_incumbent(evaluation, told, "student")
    assert check.name == "ctr_auc_minus_incumbent" and "2026-02 scored" in check.detail
    again = incumbent_scores(lake, told, PARTITION, DAYS, app)
    assert largest_differences(stored_scores(lake, "homepage", PARTITION), again)["incumbent"] == 0
    placed(tmp_path / "other", RANKER.replace("-0.01, 0.01", "-0.01, 0.02"))
    assert incumbent_scores(lake, told, PARTITION, DAYS, tmp_path / "other").hashes != again.hashes


def _reads(*columns: str) -> dict[str, object]:
    return {"inputs": {"x": list(columns), "age": "user_id"}}


@pytest.mark.parametrize(
    ("graph", "changes", "message"),
    [
        (RANKER, {"onnx": "today/rankr.onnx"}, r"onnx: no file .*did you mean 'today/ranker.onnx'"),
        (RANKER, {"inputs": {"xx": "item_ctr"}}, r"inputs.xx: .*no such input; did you mean 'x'.* no column of x, age"),
        (RANKER, _reads("item_ctr", "user_id", "day"), r"inputs.x lists 3 .* float32\[n, 2\]"),
        (RANKER, _reads("item_ctrr", "day"), r"no column 'item_ctrr'; did you mean 'item_ctr'.*'day' is DATE"),
        (RANKER, {"scores": {"ctr": "probability[1]"}}, r"scores.ctr: .*no output 'probability'; did you mean 'probab"),
        (RANKER.replace("Log (", "own.Log ("), {}, r"custom operator own::Log; .*land its scores in `ranker_scores`"),
    ],
)
def test_a_file_that_cannot_be_asked_is_refused_by_key_and_nearest_name(
    graph: str, changes: dict[str, object], message: str, landed: Landed, tmp_path: Path
) -> None:
    lake, surface, _ = landed
    with pytest.raises(IncumbentError, match=rf"(?s)^incumbent\..*{message}"):
        incumbent_predictions(lake, declared(surface, **changes), PARTITION, DAYS, placed(tmp_path, graph))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"onnx": "../ranker.onnx"}, r"incumbent.*onnx"),
        ({"inputs": {}}, "belong together"),
        ({"scores": {"ctr": "probabilities[one]"}}, r"neither an output of the graph nor output\[column\]"),
        ({"inputs": {"x": ["item_ctr", "label_ctr"], "age": "user_id"}}, r"inputs.x reads 'label_ctr', a label"),
        ({"inputs": {"x": {"column": "item_ctr"}}}, r"unknown key; did you mean 'columns'"),
    ],
)
def test_the_yaml_of_a_file_is_held_to_what_it_may_say(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    content = load_yaml(EXAMPLES / "simulator" / "surfaces" / "homepage.yaml") | {"incumbent": {**FILE, **changes}}
    file = tmp_path / "homepage.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(SpecError, match=message):
        load_surface(file)
