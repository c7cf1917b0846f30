"""The columns of a surface: inputs of the ranker, tasks, and how labels are counted from outcomes."""

import re
from typing import Literal, Self, get_args

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from ml.foundation.names import nearest
from ml.surfaces.keys import Keys, Name

_SOURCE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\.[A-Za-z_][A-Za-z0-9_]*")


class IdTable(Keys):
    """Which ids of an input have an embedding of their own, and what the others have."""

    min_count: int = Field(default=1, ge=1, description="Training rows that an id needs for an embedding of its own")
    max_ids: int | None = Field(
        default=None, ge=1, description="Most ids with an embedding of their own: the most frequent; default all"
    )
    hash_buckets: int = Field(
        default=0, ge=0, le=100_000_000, description="Embeddings that rarer ids share by a hash; 0: those are unknown"
    )
    unseen: Literal["unknown", "bucket"] = Field(
        default="unknown",
        description="What an id is that training has not seen; `bucket`: as a rarer one, of which none is stored then",
    )

    @model_validator(mode="after")
    def _buckets_to_use(self) -> Self:
        if self.unseen == "bucket" and self.hash_buckets == 0:
            raise ValueError("id_table: `unseen: bucket` needs `hash_buckets` above 0")
        return self


class Input(Keys):
    """One input column of the ranker."""

    kind: Literal["daily", "request", "after_ranking"]
    type: Literal["id", "category", "number", "vector", "event_list"]
    source: str | None = Field(default=None, alias="from", description="`<feature table>.<column>` of a daily input")
    embedding: int = Field(default=0, ge=0)
    vocabulary: str | None = None
    id_table: IdTable | None = Field(default=None, description="Bounds of the embedding table; default every id seen")
    length: int = Field(default=1, ge=1)
    transform: Literal["identity", "log1p"] = "identity"
    default: float = 0.0
    sparse: bool = Field(default=False, description="Null for most rows by nature; the data gate does not bound it")
    serving_value: float | None = None
    per_candidate: bool = Field(default=False, description="The caller sends one value per candidate, not per request")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.kind == "daily") != (self.source is not None):
            raise ValueError("a daily input needs `from: <table>.<column>`, others must not have it")
        if self.source is not None and not _SOURCE.fullmatch(self.source):
            raise ValueError(f"`from: {self.source}` is not <table>.<column>")
        if (self.kind == "after_ranking") != (self.serving_value is not None):
            raise ValueError("an after_ranking input needs `serving_value`, others must not have it")
        if self.type in ("id", "category") and self.embedding == 0:
            raise ValueError(f"an input of type {self.type} needs `embedding`")
        if self.id_table is not None and (self.type not in ("id", "category") or self.vocabulary is not None):
            of = f"{self.vocabulary}'s vocabulary" if self.vocabulary else f"type {self.type}"
            raise ValueError(f"id_table bounds the embeddings of an id or category of its own, not those of {of}")
        return self

    @model_serializer(mode="wrap")
    def _without_default(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leave ``id_table`` out where it is not set: such a surface has the digest that it has without the key."""
        return {name: value for name, value in dump(self).items() if name != "id_table" or value is not None}

    @property
    def dtype(self) -> Literal["int64", "float32"]:
        """Element type of the column in tensors and in the ONNX graph."""
        return "int64" if self.type in ("id", "category", "event_list") else "float32"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one row: () or (length,)."""
        return (self.length,) if self.type in ("vector", "event_list") else ()


class Task(Keys):
    """One head that serves."""

    kind: Literal["binary", "regression"]
    label: Name
    weight: float = Field(default=1.0, gt=0)
    teacher_output: str | None = Field(
        default=None, description="Teacher output reported beside the task; `teacher/output` where there are several"
    )
    baseline: str | None = Field(default=None, description="Input whose value alone is the popularity baseline")


PLAYED = ("played_s", "completed", "skipped", "stopped", "liked", "disliked")
PLAYED_OUTCOMES = tuple(f"{part}.{what}" for part in ("listen", "session") for what in PLAYED)
"""What listens say of an exposure: those that name it, and those of its item later in its session."""

Counting = Literal["any", "sum", "latest", "first"]


class Label(Keys):
    """How an exposure's outcomes of one name within the label window are its label: exactly one key is set."""

    any: str | None = Field(default=None, min_length=1, description="1 if one came whose value is not 0")
    sum: str | None = Field(default=None, min_length=1, description="Sum of their values")
    latest: str | None = Field(default=None, min_length=1, description="Value of the latest")
    first: str | None = Field(default=None, min_length=1, description="Value of the first")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if len(self.model_fields_set) != 1:
            keys = ", ".join(get_args(Counting))
            raise ValueError(f"a label says one of {keys}, and the name of an outcome: {{any: purchase}}")
        _, name = self.rule
        part = name.split(".")[0]
        if part in ("listen", "session") and name not in PLAYED_OUTCOMES:
            raise ValueError(f"listens have no outcome {name!r}{nearest(name, PLAYED_OUTCOMES)}")
        return self

    @model_serializer
    def _as_written(self) -> dict[str, str]:
        return dict([self.rule])

    @property
    def rule(self) -> tuple[Counting, str]:
        """How it counts, and the outcome that it counts."""
        [found] = [(kind, name) for kind in get_args(Counting) if (name := getattr(self, kind)) is not None]
        return found
