"""The sensors that tell of ended runs elsewhere; a home has those whose setting it has."""

import dagster as dg

from ml.foundation.settings import Settings

MLFLOW_SENSOR, OPENLINEAGE_SENSOR = "mlflow_sensor", "openlineage_sensor"


def build_elsewhere(settings: Settings) -> list[dg.SensorDefinition]:
    """Return a sensor for each place that is told, on from the start: the setting asks for it."""
    sensors = [_mlflow_sensor(settings)] if settings.mlflow_uri else []
    return [*sensors, _openlineage_sensor(settings)] if settings.openlineage_url else sensors


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
        tracker = Tracker(settings)
        told = hand_on(context, tracked.place, tracker.run)
        named = tracker.champions(tracked.champions)
        context.update_cursor(tracked.model_dump_json())
        return dg.SkipReason(f"{told}; {named} releases were named" if named else told)

    return mlflow_sensor


def _openlineage_sensor(settings: Settings) -> dg.SensorDefinition:
    @dg.sensor(
        name=OPENLINEAGE_SENSOR,
        minimum_interval_seconds=settings.sensor_seconds,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Sends the OpenLineage events of every run that ended to the server of CROSSFADE_OPENLINEAGE_URL.",
    )
    def openlineage_sensor(context: dg.SensorEvaluationContext, settings: dg.ResourceParam[Settings]) -> dg.SkipReason:
        from deploy.elsewhere.lineage import Lineage
        from deploy.elsewhere.runs import Place, hand_on

        place = Place.model_validate_json(context.cursor) if context.cursor else Place()
        lineage = Lineage(settings)
        told = hand_on(context, place, lineage.run)
        context.update_cursor(place.model_dump_json())
        return dg.SkipReason(told)

    return openlineage_sensor
