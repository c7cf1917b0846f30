"""The manifest: what a candidate was made of, so that every served byte can be traced to its causes."""

from collections.abc import Iterable
from datetime import date
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from ml.features.tables import FeatureTable, vector_tables
from ml.foundation.lake import ALIAS, FEATURES, Lake
from ml.foundation.sealed import DamagedError
from ml.foundation.settings import Settings
from ml.surfaces.spec import Surface
from ml.teacher.contract import Teacher


class Record(BaseModel):
    """Base of the store's documents: immutable, nothing undeclared."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DayContent(Record):
    """Identity of one day of a table."""

    day: date
    rows: int = Field(ge=0)
    content_hash: str = Field(description="Order-free hash of the day's rows")
    teacher: str | None = Field(default=None, description="Of soft labels of several teachers: whose they are")

    @model_serializer(mode="wrap")
    def _without_default(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leave ``teacher`` out where it is not set: such a day is written as before there could be several."""
        return {name: value for name, value in dump(self).items() if name != "teacher" or value is not None}


class VectorContent(Record):
    """The teacher's vectors of one feature table, as the examples of a candidate read them."""

    table: str = Field(description="Feature table that holds them")
    embedding: str = Field(description="Vector of the teacher's contract")
    entity: str
    teacher: str
    teacher_version: str
    contract_hash: str
    days: tuple[DayContent, ...] = Field(description="Rows of the training and evaluation days that have some")


class Manifest(Record):
    """Everything that a candidate is made of."""

    surface: str
    partition: date
    kind: Literal["student", "control", "popularity", "incumbent"]
    technique: str = Field(description="Distillation technique; `none` for a control and for what is no student")
    snapshot: int = Field(ge=0, description="Lake snapshot that training read, and evaluation before it widened")
    eval_snapshot: int | None = Field(default=None, ge=0, description="Snapshot that a widened evaluation read")
    train_days: tuple[date, ...] = Field(
        description="Days that it learnt from; none for popularity, not known of an incumbent"
    )
    eval_days: tuple[date, ...] = Field(min_length=1)
    examples: tuple[DayContent, ...] = Field(description="Examples of the training and evaluation days")
    soft_labels: tuple[DayContent, ...] = Field(description="Soft labels that training read; empty without teacher")
    unshown_labels: tuple[DayContent, ...] = Field(
        default=(),
        description="Labels of pairs that nobody was shown, of the training days; empty where none is declared",
    )
    vectors: tuple[VectorContent, ...] = Field(
        default=(), description="Teacher's vectors among the inputs; one for each table, teacher and version"
    )
    teacher: Teacher | None = Field(description="Whose soft labels were learnt or reported; of several, the first")
    further_teachers: tuple[Teacher, ...] = Field(default=(), description="The others of several teachers")
    spec_digest: str = Field(description="Hash of the surface's specification")
    gate_digest: str = Field(description="Hash of the gate's thresholds")
    dbt_manifest_hash: str | None
    git_commit: str | None
    seed: int
    parameters: int = Field(ge=0, description="Number of trained parameters that serve")
    overrides: dict[str, Any] = Field(default={}, description="Settings of this run that differ from the specification")
    libraries: dict[str, str] = Field(description="Version by library name")
    checkpoint_sha256: str = Field(description="Digest of the checkpoint that was exported; popularity's is its model")
    onnx_sha256: str = Field(description="SHA-256 of model.onnx")
    feature_schema_hash: str = Field(description="SHA-256 of schema.json")
    run_ids: dict[str, str] = Field(default={}, description="Dagster run id by asset")

    @model_serializer(mode="wrap")
    def _without_default(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leave out what there is none of: such a manifest has the bytes that it has without the field."""
        unset = ("vectors", "further_teachers")
        return {name: value for name, value in dump(self).items() if name not in unset or value}

    @model_validator(mode="after")
    def _learnt(self) -> Self:
        if bool(self.train_days) == (self.kind in ("popularity", "incumbent")):
            raise ValueError(f"train_days: a {self.kind} of {len(self.train_days)} days")
        return self

    @property
    def teachers(self) -> tuple[Teacher, ...]:
        """Whose soft labels were learnt or reported; nobody's of what is no student or control."""
        return () if self.teacher is None else (self.teacher, *self.further_teachers)

    @property
    def labels(self) -> dict[str | None, tuple[Teacher, tuple[DayContent, ...], tuple[DayContent, ...]]]:
        """{teacher: itself, its soft labels, its labels of pairs}; the name of an only one is None."""
        return {
            name: (
                teacher,
                tuple(day for day in self.soft_labels if day.teacher == name),
                tuple(day for day in self.unshown_labels if day.teacher == name),
            )
            for teacher in self.teachers
            for name in [teacher.name if self.further_teachers else None]
        }

    @property
    def evaluated_at(self) -> int:
        """Lake snapshot that the evaluation read."""
        return self.snapshot if self.eval_snapshot is None else self.eval_snapshot

    def to_bytes(self) -> bytes:
        """Return the manifest as JSON."""
        return (self.model_dump_json(indent=2) + "\n").encode()

    @classmethod
    def from_bytes(cls, content: bytes, name: str) -> "Manifest":
        """Parse a manifest; ``name`` names it in errors.

        Raises:
            DamagedError: The content is no valid manifest.
        """
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            raise DamagedError(f"{name} is no valid manifest: {error}") from error


def examples_content(lake: Lake, surface: str, days: Iterable[date]) -> tuple[DayContent, ...]:
    """Return the identity of each day of a surface's examples."""
    return _content(lake.content_hashes(f"{ALIAS}.{FEATURES}.examples_{surface}", days))


def soft_label_content(
    lake: Lake,
    surface: str,
    days: Iterable[date],
    teacher_version: str,
    contract_hash: str,
    *,
    teacher: str | None = None,
    unshown: bool = False,
) -> tuple[DayContent, ...]:
    """Return the identity of each day of a surface's soft labels of one teacher.

    Args:
        lake: The lake, or a snapshot of it.
        surface: Name of the surface.
        days: The days.
        teacher_version: Version of the teacher.
        contract_hash: Hash of its contract.
        teacher: Its name, where it is one of several.
        unshown: Those of pairs that nobody was shown.
    """
    from ml.teacher.labels import exposure_rows, label_hashes, unshown_rows

    rows_of = unshown_rows if unshown else exposure_rows
    return _content(label_hashes(lake, surface, teacher_version, contract_hash, days, rows_of), teacher)


def vectors_read(settings: Settings, surface: Surface) -> dict[FeatureTable, int]:
    """Return {feature table with a teacher's vector that a surface reads: length of the vector}."""
    tables = vector_tables(settings)
    sources = [spec.source.split(".")[0] for spec in surface.inputs.values() if spec.source]
    lengths = {
        spec.source.split(".")[0]: spec.length
        for spec in surface.inputs.values()
        if spec.source and spec.type == "vector"
    }
    return {tables[name]: lengths.get(name, 0) for name in dict.fromkeys(sources) if name in tables}


def vector_content(lake: Lake, surface: Surface, days: Iterable[date]) -> tuple[VectorContent, ...]:
    """Return the teacher's vectors that the examples of some days read: whose they are, and each day's identity."""
    wanted = sorted(set(days))
    found: list[VectorContent] = []
    for table in vectors_read(lake.settings, surface):
        name = f"{ALIAS}.{FEATURES}.{table.name}"
        query = f"select distinct teacher, teacher_version, contract_hash from {name} where day in (select unnest(?))"
        for origin in sorted(lake.connection.execute(query, [wanted]).fetchall()):
            own = f"(select * from {name} where (teacher, teacher_version, contract_hash) = (?, ?, ?))"
            contents = _content(lake.content_hashes(own, wanted, origin))
            teacher, version, contract_hash = origin
            found.append(
                VectorContent(
                    table=table.name,
                    embedding=str(table.vectors),
                    entity=table.entity[0],
                    teacher=teacher,
                    teacher_version=version,
                    contract_hash=contract_hash,
                    days=tuple(day for day in contents if day.rows),
                )
            )
    return tuple(found)


def joined_vectors(*parts: tuple[VectorContent, ...]) -> tuple[VectorContent, ...]:
    """Return the vectors of several windows as those of one: the days of each table, teacher and version together."""
    found: dict[tuple[str, ...], VectorContent] = {}
    for one in (one for part in parts for one in part):
        key = one.table, one.teacher, one.teacher_version, one.contract_hash
        before = found.get(key)
        found[key] = one.model_copy(update={"days": (before.days if before else ()) + one.days})
    return tuple(found[key] for key in sorted(found))


def _content(found: dict[date, tuple[int, str]], teacher: str | None = None) -> tuple[DayContent, ...]:
    return tuple(DayContent(day=day, rows=rows, content_hash=of, teacher=teacher) for day, (rows, of) in found.items())
