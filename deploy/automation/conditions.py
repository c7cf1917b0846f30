"""Declarative automation: when soft labels, students and releases are made without anybody asking for a run.

Each operand has a name, which the UI shows with its result for every tick: that is the reason why something was
asked for, or was not. A day's data is asked for by sensors, which know exactly the days that changed
(``sensors.py``); what follows from data is declared here.
"""

from collections.abc import Mapping, Sequence
from datetime import date

import dagster as dg
from dagster import AutomationCondition as Condition

from assets.names import label_keys, surface_key, teacher_key
from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.surfaces.spec import Surface

SENSOR = "follow_data"
_FOLLOWING = ("control", "student", "evaluation", "onnx")


def _idle() -> dg.AutomationCondition:
    return (~Condition.in_progress()).with_label("it is not being made") & (
        ~Condition.any_deps_in_progress()
    ).with_label("nothing that it reads is being made")


def _complete() -> dg.AutomationCondition:
    return (~Condition.any_deps_missing()).with_label("everything that it reads is there")


def _newest() -> dg.AutomationCondition:
    """Older days are for those who ask: their students cost as much and are never promoted."""
    return Condition.in_latest_time_window().with_label("of the newest day")


class _OfASurface(Condition):
    """What is asked of a home's surface; a subclass has the ``label`` that the UI shows.

    Args:
        settings: The home.
        surface: The surface.
    """

    label: str

    def __init__(self, settings: Settings, surface: Surface) -> None:
        self.settings, self.surface = settings, surface

    def get_label(self) -> str:
        """Return what the UI shows."""
        return self.label


class NoOpenCandidate(_OfASurface):
    """No candidate of the surface is undecided and waits for evaluation days."""

    label = "no candidate is undecided and waits for evaluation days"

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult:
        """Return every partition that is looked at, or none while a candidate is open."""
        from ml.stages.widening import open_candidate

        waits = not context.candidate_subset.is_empty and open_candidate(self.settings, self.surface) is not None
        return dg.AutomationResult(context, context.get_empty_subset() if waits else context.candidate_subset)


class ServedLogLanded(_OfASurface):
    """Something of the surface's served log of the day has landed."""

    label = "a served log of that day has landed"

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult:
        """Return the partitions that have a log."""
        from ml.stages.served import days_with_log

        asked = context.candidate_subset.expensively_compute_partition_keys()
        if not asked:
            return dg.AutomationResult(context, context.get_empty_subset())
        with Lake(self.settings) as lake:
            days = days_with_log(lake, self.surface.name, [date.fromisoformat(key) for key in asked])
        found = context.candidate_subset.compute_intersection_with_partition_keys({str(day) for day in days})
        return dg.AutomationResult(context, found)


def labels_follow_inputs(settings: Settings) -> dg.AutomationCondition:
    """Soft labels of any day whose teacher inputs were built again without them.

    Another teacher does not count: ``teacher_sensor`` relabels the days that students see, not all of history.
    """
    teachers = [teacher_key(name) for name in settings.teachers or [None]]
    changed = Condition.any_deps_updated().ignore(dg.AssetSelection.assets(*teachers))
    return (
        changed.since_last_handled().with_label("teacher inputs were built since it was last labelled")
        & _complete()
        & _idle()
    ).with_label("labels follow their inputs")


def one_student_per_day(settings: Settings, surface: Surface) -> dg.AutomationCondition:
    """A training set of the newest day, once, as soon as every day of its window has labels and no candidate is open.

    A change in a day that was learnt from asks for nothing: a second candidate of the same day is never promoted,
    and the next day's student learns from what is there then.
    """
    arrived = (Condition.any_deps_updated() | Condition.newly_missing()).since_last_handled()
    return (
        _newest()
        & Condition.missing().with_label("there is none of that day yet")
        & arrived.with_label("examples or soft labels arrived since it was last asked for")
        & _complete()
        & _idle()
        & NoOpenCandidate(settings, surface)
    ).with_label("one student per day")


def follows() -> dg.AutomationCondition:
    """Control, student, evaluation and candidate of the newest day, in the run of what they are made from."""
    changed = Condition.any_deps_updated().since_last_handled()
    return (
        _newest() & changed.with_label("what it is made from is newer, or is asked for now") & _complete() & _idle()
    ).with_label("follows what it is made from")


def released_with_its_candidate() -> dg.AutomationCondition:
    """A release in the run of its candidate, where the gate stands between them; never on its own."""
    return (
        _newest() & Condition.any_deps_match(Condition.will_be_requested()).with_label("its candidate is asked for now")
    ).with_label("released with its candidate")


def compared_once_final(settings: Settings, surface: Surface) -> dg.AutomationCondition:
    """What was served on any day that has a log, once its examples are there, and again when either changes."""
    changed = Condition.any_deps_updated().since_last_handled()
    return (
        changed.with_label("examples, exposures or the log arrived since it was last compared")
        & _complete()
        & _idle()
        & ServedLogLanded(settings, surface)
    ).with_label("compared once its labels are final")


def conditions(settings: Settings, surfaces: Mapping[str, Surface]) -> dict[dg.AssetKey, Condition]:
    """Return the condition of each asset that follows data, from soft labels to release."""
    labels = {key: labels_follow_inputs(settings) for s in surfaces.values() for key in label_keys(settings, s)}
    return labels | {
        surface_key(name, asset): condition
        for name, surface in surfaces.items()
        for asset, condition in {
            "training_set": one_student_per_day(settings, surface),
            **dict.fromkeys(_FOLLOWING, follows()),
            "release": released_with_its_candidate(),
            "served_skew": compared_once_final(settings, surface),
        }.items()
    }


def declare(
    assets: Sequence[dg.AssetsDefinition], settings: Settings, surfaces: Mapping[str, Surface]
) -> list[dg.AssetsDefinition]:
    """Return the assets with their conditions."""
    declared = conditions(settings, surfaces)

    def attach(spec: dg.AssetSpec) -> dg.AssetSpec:
        condition = declared.get(spec.key)
        return spec.replace_attributes(automation_condition=condition) if condition else spec

    return [asset for asset in dg.map_asset_specs(attach, assets) if isinstance(asset, dg.AssetsDefinition)]


def build_follow_sensor(settings: Settings, surfaces: Mapping[str, Surface]) -> dg.AutomationConditionSensorDefinition:
    """Return the sensor that looks at the conditions."""
    return dg.AutomationConditionSensorDefinition(
        SENSOR,
        target=dg.AssetSelection.assets(*conditions(settings, surfaces)),
        default_status=dg.DefaultSensorStatus.RUNNING if settings.automation else dg.DefaultSensorStatus.STOPPED,
        minimum_interval_seconds=settings.sensor_seconds,
        # The daemon knows Dagster's own conditions alone; where the code is, ours can be asked too.
        use_user_code_server=True,
        description=(
            "Soft labels after their inputs, one student of the newest day, its release, and what was served once its "
            "labels are final: each asset's Automation tab says by name what holds and what does not."
        ),
    )
