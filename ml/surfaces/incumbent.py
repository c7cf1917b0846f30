"""What ranks in the app today, as a surface file describes it."""

import re
from typing import Literal, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from ml.foundation.documents import is_object
from ml.surfaces.keys import Keys, Name


class IncumbentInput(Keys):
    """What an input of the incumbent's graph reads: a column, or several side by side as one vector."""

    columns: tuple[str, ...] = Field(min_length=1, description="Columns of the examples, in the order of the vector")
    default: float | str | None = Field(
        default=None, description="Where a column has no value; default that of the surface's input, or 0"
    )
    keep_nan: bool = Field(default=False, description="A missing value reaches the graph as NaN, as trees want it")
    min: float | None = Field(default=None, description="Least value; a smaller one takes the default")
    max: float | None = Field(default=None, description="Largest value; a larger one takes the default")

    @model_validator(mode="before")
    @classmethod
    def _columns_alone(cls, given: object) -> object:
        if is_object(given):
            columns = given.get("columns")
            return {**given, "columns": [columns]} if isinstance(columns, str) else given
        return {"columns": [given] if isinstance(given, str) else given}

    @model_serializer(mode="wrap")
    def _as_written(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        return {name: value for name, value in dump(self).items() if value is not None and value is not False}


_GRAPH_OUTPUT = re.compile(r"(?P<name>[^\[\]]+)(\[(?P<column>\d{1,6})\])?")


class Incumbent(Keys):
    """What ranks in the app today, by its landed scores or as an ONNX file: a baseline in every evaluation."""

    version: str = Field(min_length=1, description="Its version: `ranker_version` of its rows where its scores land")
    onnx: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_./-]*\.onnx$",
        description="Its ONNX file in the app's folder; without it, its scores land in `ranker_scores`",
    )
    inputs: dict[str, IncumbentInput] = Field(
        default={}, description="{input of the graph: column of the examples, or the columns of a vector}; with `onnx`"
    )
    scores: dict[Name, str] = Field(
        min_length=1,
        description="{task of the surface, or `score` for the order: `task` of its rows, or output of the graph, such "
        "as `probabilities[1]`}",
    )
    kind: Literal["probability", "logit"] = Field(
        default="probability", description="What its scores of binary tasks are, where it becomes a release"
    )
    must_not_lose: bool = Field(
        default=False,
        description="Whether guard 3 refuses a candidate that loses against it, and guard 8 one slower than its file",
    )
    min_coverage: float = Field(
        default=0.9,
        gt=0,
        le=1,
        description="Share of the evaluation rows that must have its score where a candidate must not lose",
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.onnx is None) != (not self.inputs):
            raise ValueError(
                "`onnx: ranker.onnx` and `inputs: {input of the graph: column}` belong together; leave both out where "
                "its scores land in `ranker_scores`"
            )
        if self.onnx is not None:
            if ".." in self.onnx.split("/"):
                raise ValueError(f"onnx: {self.onnx!r} leads out of the app's folder")
            for key, name in self.scores.items():
                if not _GRAPH_OUTPUT.fullmatch(name):
                    raise ValueError(f"scores.{key}: {name!r} is neither an output of the graph nor output[column]")
        return self

    @model_serializer(mode="wrap")
    def _without_graph(self, dump: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leave the graph out where there is none: a surface with landed scores keeps its digest."""
        unset = () if self.onnx else ("onnx", "inputs", "kind")
        return {name: value for name, value in dump(self).items() if name not in unset}

    @property
    def graph_outputs(self) -> dict[str, tuple[str, int | None]]:
        """{key of ``scores``: output of the graph, and its column where that is said}."""
        found = {key: _GRAPH_OUTPUT.fullmatch(name) for key, name in self.scores.items()}
        return {key: (m["name"], int(m["column"]) if m["column"] else None) for key, m in found.items() if m}
