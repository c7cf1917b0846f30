"""The sensors that tell of ended runs elsewhere; a home has those whose setting it has."""

from time import monotonic

import dagster as dg

from ml.foundation.settings import Settings

MLFLOW_SENSOR = "mlflow_sensor"


def build_elsewhere(settings: Settings) -> list[dg.SensorDefinition]:
    """Return a sensor for each place that is told, on from the start: the setting asks for it."""
    return [_mlflow_sensor(settings)] if settings.mlflow_uri else []


def _mlflow_sensor(settings: Settings) -> dg.SensorDefinition:
    @dg.sensor(
        name=MLFLOW_SENSOR,
        minimum_interval_seconds=settings.sensor_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Writes every judged candidate, its figures and its release to the server of CROSSFADE_MLFLOW_URI.",
    )
    def mlflow_sensor(context: dg.SensorEvaluationContext, settings: dg.ResourceParam[Settings]) -> dg.SkipReason:
        from deploy.elsewhere.runs import hand_on
        from deploy.elsewhere.tracking import Tracked, Tracker

        tracked = Tracked.model_validate_json(context.cursor) if context.cursor else Tracked()
        tracker, instance = Tracker(settings), context.instance
        told = hand_on(
            instance,
            tracked.place,
            lambda record: tracker.run(instance, record),
            started=monotonic(),
            refused=context.log.warning,
        )
        named = tracker.champions(tracked.champions)
        context.update_cursor(tracked.model_dump_json())
        return dg.SkipReason(f"{told}; {named} releases were named" if named else told)

    return mlflow_sensor
