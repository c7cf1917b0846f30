"""Sabotage of checkpoints, of the exported graph and of what stands beside it."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import changes
from tests.support.bench import GATE, Bench, Case, each
from tests.support.changes import evaluation, graph, head, predictions, story, teacher, weights

pytestmark = pytest.mark.early


def trained(name: str, edit: Callable[..., None], caught: int | str) -> Case:
    return Case(name, "evaluation", weights(edit), caught)


def exported(name: str, edit: Callable[..., bytes | None], caught: int = 7) -> Case:
    return Case(name, GATE, graph(edit), caught)


OFTEN = [
    exported("a distillation head left in", changes.kept_head),
]
LONG = [
    trained("heads swapped", changes.swapped_heads, 3),
    exported("other preprocessing constants in the graph", changes.other_constants),
    exported("a slow graph", changes.slow, 8),
    trained("nothing learnt", changes.random_weights, 3),
    trained("clicks turned round", head("ctr", -1), 3),
    trained("constant scores", head("ctr", 0), 3),
    trained("saturated scores", head("ctr", 1000), 5),
    trained("probabilities too high", head("ctr", 1, 3), 5),
    trained("trail far off", head("trail", 1, 30), 3),
    trained("a weight that is no number", changes.not_a_number, "homepage__evaluation"),
    trained("other scaling of the inputs", changes.other_scaling, 3),
    trained("embeddings of other ids", changes.other_items, 4),
    exported("features in another order", changes.swapped_inputs),
    exported("a fixed batch", changes.fixed_batch),
    exported("an overflow of float16", changes.half_precision),
    exported("rounded weights", changes.coarse_weights),
    exported("weights in another file", changes.external_data),
    exported("an oversized file", changes.oversized),
    exported("an operator of some library", changes.custom_operator),
    exported("no ranking score", changes.missing_output),
    exported("a constant answer", changes.constant_answer),
    exported("no model at all", changes.no_model),
    Case("another default in the served schema", GATE, changes.other_default, 8),
    Case("another server configuration", GATE, changes.other_config, 7),
    Case("better figures than measured", GATE, evaluation(changes.better_figures), 10),
    Case(
        "predictions that know the label",
        GATE,
        predictions(
            "update {predictions} as p set score = e.label_ctr from lake.features.examples_homepage as e "
            "where p.exposure_id = e.exposure_id and p.task = 'ctr' and {own}"
        ),
        10,
    ),
    Case(
        "predictions of another model", GATE, predictions("update {predictions} set model_hash = 'x' where {own}"), 10
    ),
    Case(
        "predictions of half the rows",
        GATE,
        predictions("delete from {predictions} where {own} and exposure_id % 2 = 0"),
        10,
    ),
    Case("a manifest that names other training days", GATE, changes.fewer_days, 10),
    Case("a manifest that names an older snapshot", GATE, changes.older_snapshot, 10),
    Case("a manifest that names another checkpoint", GATE, story(checkpoint_sha256="0" * 64), 7),
    Case("a manifest that names the other ranker", GATE, changes.other_kind, 3),
    Case("a teacher that was exchanged after training", GATE, teacher(version="another"), 2),
    Case("a teacher that has seen the evaluation days", GATE, teacher(trained_through="2026-01-09"), 10),
]


@each(OFTEN, LONG)
def test_sabotage_of_models_leaves_the_champion_and_its_twin_is_promoted(
    case: Case, healthy: Bench, tmp_path: Path, told: Callable[[Case, str], None]
):
    told(case, case.try_it(healthy, tmp_path))
