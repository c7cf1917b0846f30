"""The app's present ranker, by its landed scores: a figure beside others, or what a candidate must not lose against."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from sklearn.metrics import roc_auc_score

from checks import gx
from checks.guards.quality import against_incumbent, measure, suite
from ml.evaluation.evaluate import evaluate
from ml.evaluation.outcome import Outcome
from ml.evaluation.predictions import incumbent_predictions, write_predictions
from ml.evaluation.report import markdown_summary
from ml.evaluation.results import Evaluation
from ml.foundation.ids import id63_array
from ml.foundation.lake import Lake
from ml.foundation.settings import EXAMPLES
from ml.surfaces.spec import Incumbent, SpecError, Surface, load_surface
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


def judged(landed: Landed, incumbent: Incumbent | None) -> tuple[Evaluation, Surface]:
    lake, surface, _ = landed
    surface = surface.model_copy(update={"incumbent": incumbent})
    lake.connection.execute("delete from lake.ml.predictions_homepage where model = 'incumbent'")
    if (rows := incumbent_predictions(lake, surface, PARTITION, DAYS)).num_rows:
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


def test_where_a_candidate_must_not_lose_too_few_scores_block(beside: tuple[Evaluation, Evaluation, Surface]) -> None:
    without, evaluation, surface = beside
    for found, least, outcome in ((evaluation, 0.8, "pass"), (evaluation, 0.95, "fail"), (without, 0.8, "fail")):
        [enough] = against_incumbent(found, strict(surface, min_coverage=least), "student")
        assert (enough.name, str(enough.outcome)) == ("ctr_scored_by_incumbent", outcome), enough
        assert "v7 scored" in enough.detail
    [told] = against_incumbent(without, surface, "student")
    assert told.outcome is Outcome.NOT_EVALUATED
    assert "present ranker (v7) has no score of any evaluation row" in markdown_summary(without, surface)


def test_another_version_has_no_part_in_it(landed: Landed) -> None:
    lake, surface, _ = landed
    unknown = surface.model_copy(update={"incumbent": DECLARED.model_copy(update={"version": "v8"})})
    assert incumbent_predictions(lake, unknown, PARTITION, DAYS).num_rows == 0


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
