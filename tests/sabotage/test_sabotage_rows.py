"""Sabotage of what a student learns from: rows, labels, features, soft labels, days."""

from collections.abc import Callable
from pathlib import Path

from tests.support import changes
from tests.support.bench import Bench, Case, each
from tests.support.changes import lake, training_set

TRAINING_SET = "training_set"
REFUSED = "homepage__training_set"
"""The training set refuses such rows: there is never a candidate."""


def case(name: str, change: Callable[[Bench], None], caught: int | str, stage: str = TRAINING_SET) -> Case:
    return Case(name, stage, change, caught)


OFTEN = [
    case("labels flipped", lake("update {examples} set label_ctr = 1 - label_ctr where day in {train}"), 3),
]
LONG = [
    case("soft labels of another row", lake(changes.SHUFFLED_SOFT_LABELS), 2),
    case("labels of other rows", lake(changes.SHUFFLED_LABELS), 3),
    case(
        "labels that are neither 0 nor 1",
        lake("update {examples} set label_ctr = 2 where day = {day} and label_ctr = 1"),
        1,
    ),
    case("every label a click", lake("update {examples} set label_ctr = 1 where day = {day}"), 1),
    case("a feature that knows the label", lake("update {examples} set item_ctr = label_ctr"), 10),
    case(
        "labels of new releases flipped",
        lake("update {examples} set label_ctr = 1 - label_ctr where day in {train} and item_age_days <= 7"),
        3,
    ),
    case(
        "an evaluation day in training",
        training_set(lambda made: {"train_days": (*made.train_days, made.eval_days[0])}),
        10,
        "control",
    ),
    case("half of the training days", training_set(lambda made: {"train_days": made.train_days[3:]}), 10, "control"),
    case(
        "a training day twice",
        training_set(lambda made: {"train_days": (*made.train_days, made.train_days[-1])}),
        10,
        "control",
    ),
    case("exposures twice", lake("insert into {examples} select * from {examples} where day = {day}"), REFUSED),
    case("half of a day lost", lake("delete from {examples} where day = {day} and exposure_id % 2 = 0"), 2),
    case("rows of another day", lake("update {examples} set ts = ts - interval 1 day where day = {day}"), 1),
    case(
        "features gone",
        lake("update {examples} set item_ctr = null, item_plays = null, creator_ctr = null where day in {train}"),
        1,
    ),
    case(
        "a feature that is no number",
        lake("update {examples} set item_ctr = 'nan'::float where day = {day} and exposure_id % 50 = 0"),
        1,
    ),
    case("features of another item", lake(changes.OTHER_ITEMS), 1),
    case("features that stand still", lake(changes.STALE), 1),
    case("soft labels of another day", lake(changes.SOFT_LABELS_OF_ANOTHER_DAY), 2),
    case(
        "soft labels that are no numbers",
        lake("update {labels} set scores = [x * 'nan'::float for x in scores] where day = {day}"),
        2,
    ),
    case("soft labels of half a day", lake("delete from {labels} where day = {day} and exposure_id % 2 = 0"), 2),
    case("soft labels twice", lake("insert into {labels} select * from {labels} where day = {day}"), REFUSED),
    case(
        "soft labels of another teacher version",
        lake("update {labels} set teacher_version = 'other' where day = {day}"),
        REFUSED,
    ),
    case(
        "soft labels of another contract",
        lake("update {labels} set contract_hash = 'other' where day = {day}"),
        REFUSED,
    ),
    case("soft labels from defaults alone", lake("update {labels} set defaulted_inputs = 1000 where day = {day}"), 2),
    case("soft labels turned round", lake("update {labels} set scores = [-x for x in scores]"), 2),
]


@each(OFTEN, LONG)
def test_sabotage_of_rows_leaves_the_champion_and_its_twin_is_promoted(
    case: Case, healthy: Bench, tmp_path: Path, told: Callable[[Case, str], None]
):
    told(case, case.try_it(healthy, tmp_path))
