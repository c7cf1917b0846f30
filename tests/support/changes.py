"""Ways to spoil what a release is made of, each one change to a healthy bench."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load, save

from ml.export.files import MODEL, SCHEMA
from ml.foundation.files import sha256_bytes
from ml.foundation.lake import Lake
from ml.releases.release import MANIFEST

EXAMPLES, LABELS, PREDICTIONS = (
    "lake.features.examples_homepage",
    "lake.ml.soft_labels_homepage",
    "lake.ml.predictions_homepage",
)
Change = Callable[[Any], None]


def lake(statement: str) -> Change:
    """Run SQL; ``{train}``, ``{eval}`` and ``{day}`` are its training days, evaluation days, and one training day."""

    def change(bench: Any) -> None:
        days = {"train": bench.manifest.train_days, "eval": bench.manifest.eval_days}
        listed = {name: "(" + ", ".join(f"date '{day}'" for day in some) + ")" for name, some in days.items()}
        one = f"date '{bench.manifest.train_days[-1]}'"
        other = f"date '{bench.manifest.train_days[-2]}'"
        text = statement.format(examples=EXAMPLES, labels=LABELS, **listed, day=one, other=other)
        bench.sql(*text.split(";"))

    return change


def weights(edit: Callable[[dict[str, np.ndarray]], None]) -> Change:
    """Edit the weights of control and student, after training."""

    def change(bench: Any) -> None:
        for role in ("control", "student"):
            tensors = {
                name: value.copy() for name, value in load(bench.artifact(role).read("model.safetensors")).items()
            }
            edit(tensors)
            bench.put(role, {"model.safetensors": save(tensors)})

    return change


def swapped_heads(tensors: dict[str, np.ndarray]) -> None:
    """Discovery's tower answers for clicks."""
    for part in ("heads._{}.weight", "heads._{}.bias", "towers._{}.0.weight", "towers._{}.0.bias"):
        a, b = part.format("ctr"), part.format("discovery")
        tensors[a], tensors[b] = tensors[b], tensors[a]


def head(task: str, scale: float = 1, shift: float = 0) -> Callable[[dict[str, np.ndarray]], None]:
    """Return an edit that makes a task's output ``scale * output + shift``."""

    def edit(tensors: dict[str, np.ndarray]) -> None:
        tensors[f"heads._{task}.weight"] *= np.float32(scale)
        tensors[f"heads._{task}.bias"] = (tensors[f"heads._{task}.bias"] * scale + shift).astype(np.float32)

    return edit


def random_weights(tensors: dict[str, np.ndarray]) -> None:
    """Nothing was learnt."""
    rng = np.random.default_rng(0)
    for name, value in tensors.items():
        if name.startswith(("towers.", "heads.", "bottom.")):
            tensors[name] = rng.normal(0, value.std() + 1e-3, value.shape).astype(np.float32)


def not_a_number(tensors: dict[str, np.ndarray]) -> None:
    """One weight is lost."""
    tensors["bottom.0.weight"][0, 0] = np.nan


def other_scaling(tensors: dict[str, np.ndarray]) -> None:
    """Inputs are standardized with the constants of other data."""
    tensors["preprocessing.mean"] = np.roll(tensors["preprocessing.mean"], 5)
    tensors["preprocessing.deviation"] = np.roll(tensors["preprocessing.deviation"], 5)


def other_items(tensors: dict[str, np.ndarray]) -> None:
    """Items find the embeddings of other items, users those of other users."""
    for name in list(tensors):
        if ".tables." in name:
            tensors[name] = np.roll(tensors[name], 7, axis=0)


def graph(edit: Callable[[onnx.ModelProto], bytes | None]) -> Change:
    """Edit the exported model; configuration and manifest are told, so that the candidate agrees with itself."""

    def change(bench: Any) -> None:
        from ml.export.triton import config_pbtxt

        model = onnx.load_model_from_string(bench.candidate.read(MODEL))
        content = edit(model) or model.SerializeToString()
        files = {MODEL: content}
        with TemporaryDirectory() as scratch:
            path = Path(scratch) / MODEL
            path.write_bytes(content)
            with suppress(DecodeError):  # no model at all: the configuration stays
                config = config_pbtxt(bench.surface.name, path, bench.surface.gate.onnx.max_batch)
                files["config.pbtxt"] = config.encode()
        manifest = bench.manifest.model_copy(update={"onnx_sha256": sha256_bytes(content)})
        bench.put("onnx", files | {MANIFEST: manifest.to_bytes()})

    return change


def story(**fields: Any) -> Change:
    """Tell something else in the manifest."""

    def change(bench: Any) -> None:
        bench.put("onnx", {MANIFEST: bench.manifest.model_copy(update=fields).to_bytes()})

    return change


def swapped_inputs(model: onnx.ModelProto) -> None:
    """Two features arrive in each other's place."""
    swap = {"item_ctr": "user_ctr", "user_ctr": "item_ctr"}
    for node in model.graph.node:
        node.input[:] = [swap.get(name, name) for name in node.input]


def other_constants(model: onnx.ModelProto) -> None:
    """Preprocessing has other constants than training had."""
    for tensor in model.graph.initializer:
        if tensor.name == "ranker.preprocessing.deviation":
            values = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(values * np.float32(1.5), tensor.name))
            return
    raise AssertionError("no constant is called ranker.preprocessing.deviation")


def kept_head(model: onnx.ModelProto) -> None:
    """A distillation head is still in the graph, and one of its outputs."""
    model.graph.initializer.append(
        numpy_helper.from_array(np.ones(1, np.float32), "distillation.modules_of_heads.0.bias")
    )
    model.graph.node.append(helper.make_node("Identity", ["distillation.modules_of_heads.0.bias"], ["teacher_click"]))
    model.graph.output.append(helper.make_tensor_value_info("teacher_click", TensorProto.FLOAT, [1]))


def fixed_batch(model: onnx.ModelProto) -> None:
    """The graph takes one row."""
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = 1


def half_precision(model: onnx.ModelProto) -> None:
    """Weights went through float16, where some of them are too large."""
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.ndim == 2 and values.shape[0] > 90:
            with np.errstate(over="ignore"):
                halved = (values * 1e6).astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(halved, tensor.name))


def coarse_weights(model: onnx.ModelProto) -> None:
    """Weights were rounded to a quarter."""
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.ndim == 2:
            tensor.CopyFrom(numpy_helper.from_array(np.round(values * 4) / np.float32(4), tensor.name))


def external_data(model: onnx.ModelProto) -> None:
    """Weights lie in another file."""
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and len(tensor.raw_data) > 1000:
            tensor.data_location = TensorProto.EXTERNAL
            del tensor.external_data[:]
            for key, value in (("location", "weights.bin"), ("offset", "0"), ("length", str(len(tensor.raw_data)))):
                entry = tensor.external_data.add()
                entry.key, entry.value = key, value
            tensor.ClearField("raw_data")
            return


def oversized(model: onnx.ModelProto) -> None:
    """A large tensor that nothing uses."""
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(1_000_000, np.float32), "ballast"))


def slow(model: onnx.ModelProto) -> None:
    """A detour that costs time and changes nothing."""
    size = 400
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((size, size), np.float32), "detour"))
    score = model.graph.output[-1].name
    rename(model, score, "direct")
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 1], np.int64), "ones"))
    name = "detour"
    for step in range(40):
        model.graph.node.append(helper.make_node("MatMul", [name, "detour"], [f"detour_{step}"]))
        model.graph.node.append(helper.make_node("Add", [f"detour_{step}", "seed"], [f"detour_{step}_seeded"]))
        name = f"detour_{step}_seeded"
    nodes = list(model.graph.node)
    first = helper.make_node("ReduceSum", ["direct"], ["seed"], keepdims=0)
    last = [
        helper.make_node("ReduceSum", [name], ["total"], keepdims=0),
        helper.make_node("Sub", ["total", "total"], ["nothing"]),
        helper.make_node("Add", ["direct", "nothing"], [score]),
    ]
    place = next(i for i, node in enumerate(nodes) if node.op_type == "MatMul" and node.input[0] == "detour")
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:place], first, *nodes[place:], *last])


def rename(model: onnx.ModelProto, old: str, new: str) -> None:
    """Give a tensor inside of the graph another name."""
    for node in model.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]


def custom_operator(model: onnx.ModelProto) -> None:
    """An operator that only some library knows."""
    score = model.graph.output[-1].name
    rename(model, score, "plain")
    model.graph.node.append(helper.make_node("Sharpen", ["plain"], [score], domain="com.example"))
    model.opset_import.append(helper.make_opsetid("com.example", 1))


def missing_output(model: onnx.ModelProto) -> None:
    """The ranking score is no output."""
    del model.graph.output[-1]


def constant_answer(model: onnx.ModelProto) -> None:
    """The click output is 0 for everybody."""
    rename(model, "ctr", "learnt")
    model.graph.node.append(helper.make_node("Sub", ["learnt", "learnt"], ["ctr"]))


def no_model(model: onnx.ModelProto) -> bytes:
    """The file is no model."""
    return b"no model"


def other_default(bench: Any) -> None:
    """The served schema takes another default than training took."""
    schema = json.loads(bench.candidate.read(SCHEMA))
    number = next(item for item in schema["inputs"] if item["name"] == "item_ctr")
    number["default"] = 7.0
    content = json.dumps(schema).encode()
    manifest = bench.manifest.model_copy(update={"feature_schema_hash": sha256_bytes(content)})
    bench.put("onnx", {SCHEMA: content, MANIFEST: manifest.to_bytes()})


def other_config(bench: Any) -> None:
    """The server's configuration names another batch and device."""
    text = bench.candidate.read("config.pbtxt").decode().replace("KIND_CPU", "KIND_GPU")
    bench.put("onnx", {"config.pbtxt": text.encode()})


def evaluation(edit: Callable[[dict[str, Any]], None]) -> Change:
    """Edit the evaluation, as somebody might who wants to be promoted."""

    def change(bench: Any) -> None:
        content = bench.artifact("evaluation").json("evaluation.json")
        edit(content)
        bench.put("evaluation", {"evaluation.json": json.dumps(content).encode()})

    return change


def better_figures(content: dict[str, Any]) -> None:
    """Every difference is called an improvement."""
    for row in content["results"]:
        if row["reference"] and row["value"] is not None:
            row["value"], row["lo"], row["hi"] = 0.05, 0.04, 0.06


def predictions(statement: str) -> Change:
    """Change the stored predictions of the candidate."""

    def change(bench: Any) -> None:
        own = f"partition = date '{bench.partition}' and model = '{bench.kind}'"
        bench.sql(statement.format(predictions=PREDICTIONS, own=own))

    return change


def training_set(edit: Callable[[Any], dict[str, Any]]) -> Change:
    """Tell other days or rows in the training set's record."""

    def change(bench: Any) -> None:
        from ml.stages.training_set import read_training_set

        made = read_training_set(bench.settings, bench.surface, bench.partition)
        edited = made.model_copy(update=edit(made))
        bench.put("training_set", {"training_set.json": edited.to_json().encode()})

    return change


def teacher(**fields: Any) -> Change:
    """Pin a teacher whose contract says something else."""

    def change(bench: Any) -> None:
        import yaml

        path = bench.settings.teacher
        contract = yaml.safe_load(path.read_text())
        path.write_text(yaml.safe_dump(contract | fields))

    return change


SHUFFLED_LABELS = """
    create or replace temp table own as
        select day, exposure_id, label_ctr, row_number() over (order by exposure_id) as place, count(*) over () as n
        from {examples} where day in {train};
    update {examples} as e set label_ctr = b.label_ctr
        from own as a join own as b on b.place = (a.place + 1000) % a.n + 1
        where e.day = a.day and e.exposure_id = a.exposure_id"""
SHUFFLED_SOFT_LABELS = """
    create or replace temp table own as
        select *, row_number() over (order by exposure_id) as place, count(*) over () as n from {labels}
        where day = {day};
    delete from {labels} where day = {day};
    insert into {labels} by name
        select a.* exclude (place, n, scores), b.scores from own as a
        join own as b on b.place = (a.place + 100) % a.n + 1"""
SOFT_LABELS_OF_ANOTHER_DAY = """
    create or replace temp table own as
        select *, row_number() over (partition by day order by exposure_id) as place from {labels}
        where day in ({day}, {other});
    update {labels} as l set scores = b.scores from own as a
        join own as b on b.place = a.place and b.day <> a.day
        where a.day = {day} and l.day = a.day and l.exposure_id = a.exposure_id"""
OTHER_ITEMS = """
    create or replace temp table own as
        select * , row_number() over (partition by day order by exposure_id) as place,
        count(*) over (partition by day) as n
        from {examples} where day in {train};
    update {examples} as e set item_ctr = b.item_ctr, item_plays = b.item_plays, creator_ctr = b.creator_ctr,
            item_skip_rate = b.item_skip_rate, content_embedding = b.content_embedding
        from own as a join own as b on b.day = a.day and b.place = (a.place + 100) % a.n + 1
        where e.day = a.day and e.exposure_id = a.exposure_id"""
STALE = """
    create or replace temp table own as
        select item_id, max(item_ctr) as item_ctr, max(item_plays) as item_plays,
        max(item_impressions) as item_impressions, max(item_skip_rate) as item_skip_rate, max(item_age_days) as age
        from {examples} where day = (select min(day) + 1 from {examples}) group by item_id;
    update {examples} as e set item_ctr = o.item_ctr, item_plays = o.item_plays, item_age_days = o.age,
            item_impressions = o.item_impressions, item_skip_rate = o.item_skip_rate
        from own as o where o.item_id = e.item_id"""


def fewer_days(bench: Any) -> None:
    """The manifest forgets a training day."""
    manifest = bench.manifest
    story(train_days=manifest.train_days[1:], examples=manifest.examples[1:])(bench)


def older_snapshot(bench: Any) -> None:
    """The manifest names a snapshot that lacks the newest soft labels."""
    with Lake(bench.settings) as lake:
        (oldest,) = lake.connection.execute(
            "select min(snapshot_id) from lake.snapshots() where list_contains(map_keys(changes), 'tables_created')"
        ).fetchone() or (0,)
    story(snapshot=oldest + 1)(bench)


def other_kind(bench: Any) -> None:
    """The manifest says control where it is the student, or the other way round."""
    story(kind="control" if bench.kind == "student" else "student")(bench)
