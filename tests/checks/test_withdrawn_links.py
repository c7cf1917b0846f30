"""A user who withdraws the link to the account: nothing that the teacher said of it is learnt from, of any day."""

from datetime import date, timedelta
from types import SimpleNamespace

import pyarrow as pa
import pytest

from checks.guards.soft_labels import measure, pinned_of
from ml.features.unshown import unshown_inputs_table, unshown_table
from ml.foundation.lake import ALIAS, Lake
from ml.foundation.settings import Settings
from ml.stages.training_set import make_training_set, without_consent
from ml.students.dataset import load
from ml.surfaces.spec import Surface
from ml.teacher.contract import teacher_contract
from ml.teacher.labels import label_days, unshown_rows
from ml.teacher.withdrawn import Withdrawn, drop_withdrawn, withdrawn_table

LEFT, BACK, LINKED, NEVER = 1, 2, 3, 4
"""Who withdrew the link, who did and made another, who has it still, who never had one."""


@pytest.fixture(scope="module")
def home(toolbox: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Surface]:
    settings, surface = toolbox.make_home(tmp_path_factory.mktemp("withdrawn") / "home")
    days = settings.days(toolbox.FIRST, toolbox.PARTITION)
    with Lake(settings) as lake:
        shown = f"{ALIAS}.features.examples_tiny"
        exposures = lake.sql(f"select day, exposure_id, user_id from {shown}")
        lake.replace_days("features.stg_exposures", exposures, days)
        seen = lake.sql(f"select i.*, 7::bigint as source_user_id from {ALIAS}.features.teacher_inputs_tiny as i")
        lake.connection.execute(f"drop table {ALIAS}.features.teacher_inputs_tiny")
        lake.replace_days("features.teacher_inputs_tiny", seen, days)
        for table in (unshown_inputs_table("tiny"), unshown_table("tiny"), unshown_rows("tiny").labels):
            lake.replace_days(table, lake.sql(f"select * from {ALIAS}.features.teacher_inputs_tiny"), days)
    link(settings, {(user, toolbox.FIRST): 10 + user for user in (LEFT, BACK, LINKED)} | {(NEVER, toolbox.FIRST): None})
    return settings, surface


def link(settings: Settings, rows: dict[tuple[int, date], int | None]) -> None:
    """Replace the rows of users of the days that are named."""
    table = pa.table(
        {
            "day": pa.array([day for _, day in rows], pa.date32()),
            "user_id": pa.array([user for user, _ in rows], pa.int64()),
            "source_user_id": pa.array(list(rows.values()), pa.int64()),
        }
    )
    with Lake(settings) as lake:
        lake.replace_days("features.stg_users", table, {day for _, day in rows})


def labelled(settings: Settings, surface: Surface, day: date) -> dict[int, tuple[int, int]]:
    """{user: (exposures, those with a soft label)} of all days of a training set."""
    made = make_training_set(settings, surface, day)
    rows = load(settings, made, surface, made.train_days + made.eval_days, soft_labels=True)
    has = ~rows.soft_labels["click"].isnan()
    return {user: (int((rows.user_id == user).sum()), int(has[rows.user_id == user].sum())) for user in (1, 2, 3, 4)}


def test_no_label_of_a_withdrawn_link_is_learnt_from_and_nobody_elses_is_lost(
    home: tuple[Settings, Surface], toolbox: SimpleNamespace
) -> None:
    (settings, surface), first, last = home, toolbox.FIRST, toolbox.PARTITION
    before = labelled(settings, surface, last)
    assert all(all_rows == labels > 0 for all_rows, labels in before.values())
    again = first + timedelta(days=4)
    link(settings, {(BACK, again): None, (LINKED, again): 99})
    link(settings, {(BACK, again + timedelta(days=1)): 33, (LEFT, last): None})
    after = labelled(settings, surface, last)
    assert after[LEFT][1] == 0 and after[LEFT][0] == before[LEFT][0]
    assert 0 < after[BACK][1] < before[BACK][1], "the new link counts from its own day"
    assert after[LINKED] == before[LINKED] and after[NEVER] == before[NEVER]
    made = make_training_set(settings, surface, last)
    rows, releases = without_consent(settings, made)
    assert rows == sum(before[user][1] - after[user][1] for user in before) and releases == ()
    contract = teacher_contract(settings)
    days = made.train_days + made.eval_days
    with Lake(settings) as lake:
        assert drop_withdrawn(lake, "tiny") == Withdrawn(), "nothing is dropped twice"
        for table in (unshown_inputs_table("tiny"), unshown_table("tiny"), unshown_rows("tiny").labels):
            kept = f"select exposure_id from {ALIAS}.{table}"
            withdrawn = f"select exposure_id from {ALIAS}.{withdrawn_table('tiny')}"
            assert lake.sql(kept).num_rows and not lake.sql(f"{kept} intersect {withdrawn}").num_rows
        [pinned] = pinned_of(lake, surface)
        measured = measure(lake, surface, days, pinned)
        assert {row["coverage"] for row in measured} == {1.0} and not any(row["strangers"] for row in measured)
        built = f"select day, exposure_id, ts, item_ctr, null::bigint as source_user_id from {ALIAS}.features"
        seen = lake.sql(f"{built}.examples_tiny where day = ?", [days[0]])
        lake.replace_days("features.teacher_inputs_tiny", seen, [days[0]])
        label_days(lake, settings, "tiny", contract, [days[0]])
        assert drop_withdrawn(lake, "tiny") == Withdrawn(), "a day that was built without the account may be labelled"
    assert labelled(settings, surface, last)[LEFT][1] > 0
