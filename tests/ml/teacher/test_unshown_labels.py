"""Pairs that nobody was shown are labelled as exposures are: same scores, same hashes, by teacher version."""

from collections.abc import Callable
from datetime import date
from typing import Any

import pytest

from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.teacher.contract import Contract, load_contract
from ml.teacher.labels import (
    LabelError,
    exposure_rows,
    label_days,
    label_hashes,
    rescore,
    unlabelled_days,
    unshown_rows,
)

Write = Callable[..., Any]


@pytest.fixture
def contract(lake: Lake, teacher_folder: Write, write_inputs: Write, days: list[date]) -> Contract:
    """A teacher, exposures, and as many pairs with the same inputs."""
    write_inputs(days)
    lake.connection.execute(
        f"create table lake.{unshown_rows('home').inputs} as "
        f"select * replace (exposure_id + 1 as exposure_id), exposure_id as pair_id "
        f"from lake.{exposure_rows('home').inputs}"
    )
    return load_contract(teacher_folder())


def stored(lake: Lake, table: str, key: str) -> dict[int, list[float]]:
    found = lake.sql(f"select {key}, scores from lake.{table}")
    return dict(zip(found[key].to_pylist(), found["scores"].to_pylist(), strict=True))


@pytest.mark.slow
def test_a_pair_is_scored_as_an_exposure_with_its_inputs(
    lake: Lake, settings: Settings, contract: Contract, days: list[date]
) -> None:
    of_exposures = label_days(lake, settings, "home", contract, days)
    of_pairs = label_days(lake, settings, "home", contract, days, rows_of=unshown_rows)
    assert of_pairs.table == "ml.unshown_labels_home" and of_pairs.rows == of_exposures.rows == 1_500
    assert of_pairs.coverage == 1 and of_pairs.defaulted_inputs == of_exposures.defaulted_inputs
    exposures, pairs = stored(lake, of_exposures.table, "exposure_id"), stored(lake, of_pairs.table, "pair_id")
    assert pairs == exposures
    [(apart,)] = lake.connection.execute(
        f"select count(*) from lake.{of_pairs.table} where exposure_id <> pair_id + 1"
    ).fetchall()
    assert apart == 0, "a pair's label names another exposure than the pair does"
    assert rescore(lake, settings, "home", contract, days, rows_of=unshown_rows) == 0


@pytest.mark.slow
def test_labelling_pairs_again_gives_the_same_hash_and_leaves_other_versions_and_the_exposures(
    lake: Lake, settings: Settings, contract: Contract, teacher_folder: Write, days: list[date]
) -> None:
    label_days(lake, settings, "home", contract, days)
    first = label_days(lake, settings, "home", contract, days, rows_of=unshown_rows)
    later = load_contract(teacher_folder(folder="later", version="2"))
    assert unlabelled_days(settings, ["home"], later, days[0], days[-1], unshown_rows) == days
    label_days(lake, settings, "home", later, days, rows_of=unshown_rows)
    again = label_days(lake, settings, "home", contract, [days[1]], rows_of=unshown_rows)
    assert again.days[0] == first.days[1]
    for one in (contract, later):
        of = label_hashes(lake, "home", one.version, one.contract_hash, days, unshown_rows)
        assert [rows for rows, _ in of.values()] == [500, 500, 500]
        assert unlabelled_days(settings, ["home"], one, days[0], days[-1], unshown_rows) == []
    assert unlabelled_days(settings, ["home"], later, days[0], days[-1]) == days


@pytest.mark.slow
def test_a_teacher_that_hands_over_scores_says_nothing_of_pairs(
    lake: Lake, settings: Settings, contract: Contract, teacher_folder: Write, days: list[date]
) -> None:
    outputs = [{"task": "click", "kind": "logit"}]
    landed = load_contract(teacher_folder(folder="landed", model=None, scores=True, inputs=[], outputs=outputs))
    with pytest.raises(LabelError, match=r"hands over scores of exposures.*Leave distillation.unshown out"):
        label_days(lake, settings, "home", landed, days, rows_of=unshown_rows)
