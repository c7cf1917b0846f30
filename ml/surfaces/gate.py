"""Thresholds of the gate of a surface."""

from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from ml.foundation.documents import digest
from ml.foundation.names import nearest
from ml.surfaces.keys import Bounds, Keys, shares_of_one


class DataGate(Keys):
    """Thresholds of the guard ``data``."""

    min_rows: int = Field(
        ge=0,
        description="Rows a day must have. A day on which nothing was shown has none, and is told unless this is 0",
    )
    label_rate: dict[str, Annotated[Bounds, AfterValidator(shares_of_one)]] = Field(
        description="Bounds of the daily mean label per binary task; fails beyond chance, warns within"
    )
    label_rate_change: float = Field(
        default=2.0,
        gt=1,
        description="Factor by which a day's mean label may lie above or below that of the days before it; fails "
        "beyond chance, warns within",
    )
    trailing_days: int = Field(default=28, ge=7, description="Days before it that a day's mean label is held against")
    max_null_share: float = Field(ge=0, le=1, description="Nulls allowed in any input column")


class SoftLabelGate(Keys):
    """Thresholds of the guard ``soft_labels``."""

    min_coverage: float = Field(ge=0, le=1)
    max_defaulted_share: float = Field(ge=0, le=1)
    rescore_rows: int = Field(ge=1)
    rescore_tolerance: float = Field(gt=0, le=1)
    teachers: dict[str, dict[str, float]] = Field(
        default={}, description="Of several teachers, which of these bounds are others for one, by its name"
    )

    @model_validator(mode="after")
    def _known_bounds(self) -> Self:
        bounds = [name for name in type(self).model_fields if name != "teachers"]
        for teacher, own in self.teachers.items():
            if unknown := [name for name in own if name not in bounds]:
                raise ValueError(f"teachers.{teacher}: there is no bound {unknown[0]!r}{nearest(unknown[0], bounds)}")
            self.of(teacher)
        return self

    @model_serializer(mode="wrap")
    def _without_default(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leave ``teachers`` out where it is not set: such a gate has the digest that it has without the key."""
        return {name: value for name, value in dump(self).items() if name != "teachers" or value}

    def of(self, teacher: str | None) -> Self:
        """Return the bounds of one teacher."""
        own = self.teachers.get(teacher or "", {})
        return type(self).model_validate({**self.model_dump(exclude={"teachers"}), **own})


RANKING_MARGIN = 0.015
"""Loss of NDCG@10 by the ranking score that is tolerated where a surface does not say."""


class QualityGate(Keys):
    """Thresholds of the guard ``quality`` for one task, in units of its metric (AUC or R2)."""

    margin: float = Field(gt=0, le=1)
    min: float = Field(le=1)
    reference_margin: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Loss against the reference release that all releases since may sum to; default the margin",
    )
    ranking_margin: float = Field(
        default=RANKING_MARGIN,
        gt=0,
        description="Loss of NDCG@10 by the ranking score, with this task's label as gain; of a task of `rank_by`",
    )


class SliceGate(Keys):
    """Thresholds of the guard ``slices``."""

    margin_factor: float = Field(gt=1)
    min_rows: int = Field(ge=1)
    min_positives: int = Field(ge=1)


class CalibrationGate(Keys):
    """Thresholds of the guard ``calibration``."""

    max_ece: float = Field(gt=0, le=1)
    max_relative_ece: float = Field(
        default=0.4, gt=0, description="Calibration error over the base rate; fails by the interval, warns within it"
    )
    log_loss_margin: float = Field(
        default=0.02, gt=0, description="Loss of log loss against control and champion, as a share of theirs"
    )
    predicted_over_observed: Bounds


class ShiftGate(Keys):
    """Thresholds of the guard ``score_shift``: candidate against champion on the evaluation days."""

    max_psi: float = Field(default=0.25, gt=0, description="Population stability index of any output that blocks")
    warn_psi: float = Field(default=0.1, gt=0, description="And one that warns")
    top: int = Field(default=5, ge=1, description="Places of a user's ranking that are compared")
    min_overlap: float = Field(default=0.5, ge=0, le=1, description="Share of these places that both rankings fill")
    min_users: int = Field(default=50, ge=1, description="Fewer users with enough rows are a warning")


class OnnxGate(Keys):
    """Thresholds of the guard ``onnx``."""

    tolerance: float = Field(gt=0, le=1)
    max_megabytes: float = Field(gt=0)
    max_batch: int = Field(ge=3, le=100_000)


class ServingGate(Keys):
    """Thresholds of the guard ``serving``."""

    max_ready_s: float = Field(default=60, gt=0, description="Start of a clean process to the first answer")
    max_milliseconds: float = Field(default=20, gt=0, description="Median time of the model on 200 candidates")
    min_speed: float = Field(default=0.5, gt=0, description="The champion's time over the candidate's")


class ProvenanceGate(Keys):
    """Thresholds of the guard ``provenance``."""

    max_plausible_auc: float = Field(gt=0.5, le=1)


class PromotionGate(Keys):
    """Who promotes a candidate that passed, and how many overrule the gate."""

    mode: Literal["automatic", "manual"] = Field(
        default="automatic",
        description="`manual`: a named person has to approve it first (`crossfade release approve`)",
    )
    approve_within_hours: float = Field(
        default=72, gt=0, le=8760, description="Hours after the verdict in which one may; then it is judged again"
    )
    override_names: int = Field(default=1, ge=1, le=2, description="People who have to ask for an override")


class Gate(Keys):
    """Thresholds of the gate."""

    data: DataGate
    soft_labels: SoftLabelGate
    quality: dict[str, QualityGate] = Field(min_length=1)
    slices: SliceGate
    calibration: CalibrationGate
    shift: ShiftGate = ShiftGate()
    onnx: OnnxGate
    serving: ServingGate = ServingGate()
    provenance: ProvenanceGate
    promotion: PromotionGate = PromotionGate()
    guards: dict[str, dict[str, JsonValue]] = Field(
        default={}, description="Thresholds of further guards by name; the file of each declares which it takes"
    )

    @model_serializer(mode="wrap")
    def _without_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leave out what version 0.1 did not know, where it is not set: such a gate keeps its digest."""
        unset: dict[str, object] = {"guards": {}, "promotion": PromotionGate().model_dump()}
        return {name: value for name, value in dump(self).items() if name not in unset or value != unset[name]}

    @property
    def digest(self) -> str:
        """Content hash of the thresholds."""
        return digest(self.model_dump(mode="json"))
