"""Guard `score_shift`: scores and rankings do not jump against the champion."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from checks import gx
from checks.guards import score_shift
from checks.guards.score_shift import ShiftRow
from ml.evaluation.outcome import Outcome
from ml.evaluation.rows import newest_first
from ml.foundation.files import Files
from ml.foundation.lake import Lake
from ml.inference.model import Model
from tests.checks.graphs import edited, scaled
from tests.checks.spoilt import Bench
from tests.support.known import present, the


def test_the_first_candidate_is_not_evaluated(bench: Bench) -> None:
    result = bench.ask(score_shift.GUARD)
    assert (result.outcome, result.to_do) == (Outcome.NOT_EVALUATED, "")
    assert result.reason == "the first candidate: no champion to compare with"


def test_the_same_scores_of_too_few_users_warn(champion: Bench) -> None:
    result = champion.ask(score_shift.GUARD)
    assert result.outcome is Outcome.WARN, "the same scores, but too few users for their rankings"
    values = {check.name: check.value for check in result.checks}
    assert values["psi_ctr"] == 0 and float(present(values["users_with_enough_rows"])) < 50
    assert (result.means, result.to_do) == (score_shift.GUARD.means, score_shift.GUARD.to_do)


def test_a_champion_that_cannot_be_read_blocks(champion: Bench) -> None:
    release = present(champion.store.champion("tiny")).release.id
    (the(Files, champion.store.files).root / f"releases/tiny/{release}/model.onnx").write_bytes(b"rot")
    result = champion.ask(score_shift.GUARD)
    assert (result.outcome, result.checks) == (Outcome.FAIL, ())
    assert result.reason.startswith("could not be evaluated: ")


@pytest.mark.parametrize(
    ("factor", "offset", "failed"),
    [
        (1.0, 0.0, set()),
        (1.0, 2.0, {"psi_ctr", "psi_score"}),
        (0.0, 0.3, {"psi_ctr", "psi_score"}),
        (-1.0, 0.0, {"psi_ctr", "psi_score", "top_2_overlap"}),
    ],
)
def test_scores_that_jump_against_the_champion_fail(bench: Bench, factor: float, offset: float, failed: set[str]):
    schema = bench.candidate.read("schema.json")
    champion = Model(bench.candidate.read("model.onnx"), schema)
    candidate = Model(edited(bench.candidate, scaled(factor, offset)), schema)
    gate = bench.surface.gate.shift.model_copy(update={"top": 2, "min_users": 10})
    with Lake(bench.settings) as lake:
        days = bench.manifest.eval_days
        rows = score_shift.measure(lake, bench.surface, candidate, champion, days, top=gate.top)
    checks = gx.validate(rows, score_shift.suite(gate, rows))
    assert failed <= {c.name for c in checks if c.outcome is Outcome.FAIL} if failed else gx.worst(checks) == "pass"
    assert {c.n for c in checks if c.name.startswith("psi")} == {800}


@pytest.mark.parametrize(
    ("losses", "outcome"),
    [
        ({"ctr": (-0.02, -0.01)}, "warn"),  # better by its interval
        ({"ctr": (-0.02, 0.01)}, "fail"),
        ({"ctr": (-0.02, -0.01), "trail": (0.1, 0.2)}, "fail"),  # the score serves a task that lost
        ({}, "fail"),
    ],
)
def test_a_shift_that_the_labels_explain_only_warns(
    bench: Bench, losses: dict[str, tuple[float, float]], outcome: str
) -> None:
    gate = bench.surface.gate.shift
    rows: list[ShiftRow] = [{"measure": "psi", "output": name, "measured": 0.4, "n": 900} for name in ("ctr", "score")]
    for task, ends in losses.items():
        for measure, end in zip(("loss_low", "loss_high"), ends, strict=True):
            rows.append({"measure": measure, "output": task, "measured": end, "n": gate.min_users})
    assert gx.worst(gx.validate(rows, score_shift.suite(gate, rows))) == outcome
    few: list[ShiftRow] = [{**row, "n": gate.min_users - 1} if "loss" in row["measure"] else row for row in rows]
    assert gx.worst(gx.validate(few, score_shift.suite(gate, few))) == "fail"


def test_the_losses_of_both_models_are_those_of_the_same_rows(bench: Bench) -> None:
    schema = bench.candidate.read("schema.json")
    own = Model(bench.candidate.read("model.onnx"), schema)
    wild = Model(edited(bench.candidate, scaled(1.0, 4.0)), schema)
    gate = bench.surface.gate.shift.model_copy(update={"min_users": 10})
    with Lake(bench.settings) as lake:
        days = bench.manifest.eval_days
        better = score_shift.measure(lake, bench.surface, own, wild, days, top=2)
        worse = score_shift.measure(lake, bench.surface, wild, own, days, top=2)
    assert "ctr" in score_shift.explained(gate, better) and "ctr" not in score_shift.explained(gate, worse)
    ends = {row["measure"]: row["measured"] for row in better if row["output"] == "ctr"}
    turned = {row["measure"]: row["measured"] for row in worse if row["output"] == "ctr"}
    assert ends["loss_high"] == pytest.approx(-turned["loss_low"]) and ends["loss_high"] < 0


@pytest.mark.parametrize(("measured", "outcome"), [(0.05, "pass"), (0.15, "warn"), (0.3, "fail")])
def test_a_moderate_shift_warns(bench: Bench, measured: float, outcome: str) -> None:
    rows: list[ShiftRow] = [{"measure": "psi", "output": "ctr", "measured": measured, "n": 900}]
    assert gx.worst(gx.validate(rows, score_shift.suite(bench.surface.gate.shift, rows))) == outcome


def test_every_row_is_looked_at_a_few_at_a_time_the_newest_first(bench: Bench, tmp_path: Path) -> None:
    day, table = bench.manifest.eval_days[0], f"lake.features.examples_{bench.surface.name}"
    with Lake(bench.settings.model_copy(update={"home": tmp_path})) as lake:
        lake.connection.execute("create schema if not exists lake.features")
        lake.connection.execute(
            f"create table {table} as select date '{day}' as day, "
            f"timestamp '{day}' + interval (i % 1000) second as ts, i as exposure_id, i % 7 as user_id, "
            "'wide' as unused from range(60000) as of(i)"
        )
        batches = list(newest_first(lake, bench.surface, [day], {"user_id", "exposure_id", "ts", "not_there"}))
        with pytest.raises(ValueError, match="has no rows on"):
            list(newest_first(lake, bench.surface, [day - timedelta(days=1)], {"user_id"}))
    assert sum(batch.num_rows for batch in batches) == 60_000 and max(batch.num_rows for batch in batches) <= 16_384
    assert set(batches[0].schema.names) == {"user_id", "exposure_id", "ts"}
    ids = np.concatenate([batch.column("exposure_id").to_numpy() for batch in batches])
    assert (ids == sorted(range(60_000), key=lambda i: (-(i % 1000), i))).all()
