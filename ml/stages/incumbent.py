"""The app's present ranker as a candidate: what a team serves before its first student."""

import importlib.metadata
import tempfile
from pathlib import Path

import numpy as np

from ml.evaluation.incumbent import incumbent_contract, incumbent_scores
from ml.evaluation.rows import newest_day
from ml.export.files import MODEL
from ml.export.incumbent import serving_graph
from ml.export.onnx import session_of
from ml.foundation.artifacts import Artifact, ArtifactStore
from ml.foundation.files import sha256_bytes, sha256_file
from ml.foundation.lake import ALIAS, FEATURES, Lake, quoted
from ml.foundation.settings import Settings
from ml.releases.manifest import Manifest, examples_content
from ml.releases.release import manifest_of
from ml.stages.artifacts import artifact_name
from ml.stages.candidate import candidate_files, declared, schema_file
from ml.students.columns import to_arrays
from ml.surfaces.spec import Surface
from ml.surfaces.techniques import NO_TECHNIQUE
from ml.teacher.contract import TeacherOutput
from ml.teacher.graph import parse_graph

_ROWS = 20_000
_LIBRARIES = ("duckdb", "numpy", "onnx", "onnxruntime", "pyarrow")


def propose_incumbent(settings: Settings, surface: Surface) -> Artifact:
    """Store the surface's present ranker as a candidate of the first day, so that any student is newer.

    One that is there already is taken, so that a second person is asked about the same.

    Raises:
        ValueError: The surface names no file of it, or has no examples to try it on.
        IncumbentError: The file is not as the surface says.
        NotServable: It cannot answer where a release does.
    """
    if surface.incumbent is None or surface.incumbent.onnx is None:
        raise ValueError(
            f"surface {surface.name} names no file of a present ranker: incumbent: {{version: ..., onnx: ranker.onnx, "
            "inputs: ..., scores: ...} (docs/how-to/compare_with_todays_ranker.md)"
        )
    contract = incumbent_contract(surface, settings.app)
    original = parse_graph(contract.model_path)
    graph = serving_graph(surface, contract, original).SerializeToString(deterministic=True)
    schema = schema_file(surface)
    store, name = ArtifactStore(settings.artifacts_dir), artifact_name(surface, "incumbent")
    there = store.latest(name, settings.first_day.isoformat())
    if there is not None and there.files[MODEL] == sha256_bytes(graph):
        found = manifest_of(there)
        if (found.spec_digest, found.gate_digest) == (surface.digest, surface.gate.digest):
            return there
    with Lake(settings) as lake:
        day = newest_day(lake, surface)
        if day is None:
            raise ValueError(f"examples_{surface.name} has no rows: the ranker is tried on the newest day that has")
        manifest = Manifest(
            **declared(settings, surface, schema),
            surface=surface.name,
            partition=settings.first_day,
            kind="incumbent",
            technique=NO_TECHNIQUE,
            snapshot=lake.snapshot(),
            train_days=(),
            eval_days=(day,),
            examples=examples_content(lake, surface.name, [day]),
            soft_labels=(),
            teacher=None,
            seed=settings.seed,
            parameters=sum(int(np.prod(weight.dims)) for weight in original.graph.initializer),
            libraries={name: importlib.metadata.version(name) for name in _LIBRARIES},
            checkpoint_sha256=sha256_file(contract.model_path),
            onnx_sha256=sha256_bytes(graph),
        )
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / MODEL
        file.write_bytes(graph)
        files = candidate_files(surface, file, schema, manifest)
        return store.put(name, settings.first_day.isoformat(), files)


def incumbent_differences(settings: Settings, surface: Surface, candidate: Artifact) -> dict[str, float]:
    """Return how far the candidate lies from the ranker's own file, as the file is evaluated, at most by output.

    On examples of the manifest's day, with inputs as when serving; by 1 + the size of the score.
    """
    incumbent, app = surface.incumbent, settings.app
    assert incumbent is not None
    manifest = manifest_of(candidate)
    read = {column for item in incumbent.inputs.values() for column in item.columns}
    shown = ", ".join(quoted(name) for name in sorted({"exposure_id", *read}))
    table = f"{ALIAS}.{FEATURES}.examples_{surface.name}"
    with Lake(settings, snapshot=manifest.snapshot) as lake:
        query = f"select {shown} from {table} where day in (select unnest(?::date[])) order by exposure_id limit ?"
        rows = lake.sql(query, [list(manifest.eval_days), _ROWS])
        told = incumbent_scores(lake, surface, manifest.partition, manifest.eval_days, app)
    arrays = to_arrays(rows, {name: item for name, item in surface.inputs.items() if name in read}, "serving")
    arrays |= {
        name: np.zeros((rows.num_rows, *item.shape), item.dtype)
        for name, item in surface.inputs.items()
        if name not in read
    }
    session = session_of(candidate.path / MODEL)
    names = [output.name for output in session.get_outputs()]
    found = dict(zip(names, session.run(names, arrays), strict=True))
    wanted = told.on(rows["exposure_id"].to_numpy())
    apart = {}
    for name, values in found.items():
        kind = "probability" if surface.incumbent_gives_probability(name) else "value"
        scores = TeacherOutput(task=name, kind=kind).to_score(wanted["serving", "incumbent", name])
        gap = np.abs(np.asarray(values) - scores) / (1 + np.abs(scores))
        apart[name] = float(np.nan_to_num(gap, nan=np.inf).max())
    return apart
