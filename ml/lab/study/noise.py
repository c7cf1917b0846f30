"""A second teacher of a world, which knows nothing: a number for each pair of an account and a recording."""

from pathlib import Path

from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.surfaces.files import load_surfaces
from ml.teacher.contract import CONTRACT_FILE, Contract, TeacherInput, TeacherOutput, load_contract, write_contract
from ml.teacher.labels import label_days, unlabelled_days

NOISE = "noise"
"""Its name, and that of its folder in the world's home."""

_GRAPH = """
<ir_version: 9, opset_import: ["" : 17]>
noise (int64[n] account, int64[n] recording) => ({outputs}) {{
    many = Constant <value = int64 {{1000003}}> ()
    one = Constant <value = double {{12.9898}}> ()
    other = Constant <value = double {{78.233}}> ()
    far = Constant <value = double {{43758.5453}}> ()
    account_k = Mod (account, many)
    recording_k = Mod (recording, many)
    account_d = Cast <to = 11> (account_k)
    recording_d = Cast <to = 11> (recording_k)
    turned = Mul (account_d, one)
    moved = Mul (recording_d, other)
    both = Add (turned, moved)
{nodes}
}}
"""
_OUTPUT = """
    phase_{n} = Constant <value = double {{{n}.5}}> ()
    shifted_{n} = Add (both, phase_{n})
    wave_{n} = Sin (shifted_{n})
    large_{n} = Mul (wave_{n}, far)
    whole_{n} = Floor (large_{n})
    {name} = Sub (large_{n}, whole_{n})
"""
"""The digits of a sine far behind the point, between 0 and 1: the same for a pair on every day, and of no pattern."""


def prepare_noise(settings: Settings, own: Contract) -> Contract:
    """Return the second teacher of a prepared world, with labels of every day, making both if need be.

    Args:
        settings: The world's home.
        own: The world's own teacher, which has outputs of the same names.
    """
    folder = settings.home / NOISE
    if not (folder / CONTRACT_FILE).exists():
        _make(folder, own)
    contract, surfaces = load_contract(folder), list(load_surfaces(settings))
    assert settings.last_day is not None
    for surface in surfaces:
        if days := unlabelled_days(settings, [surface], contract, settings.first_day, settings.last_day):
            with Lake(settings) as lake:
                label_days(lake, settings, surface, contract, days)
    return contract


def _make(folder: Path, own: Contract) -> None:
    import onnx

    folder.mkdir(exist_ok=True)
    nodes = "".join(_OUTPUT.format(n=n, name=task) for n, task in enumerate(own.tasks, 1))
    graph = _GRAPH.format(outputs=", ".join(f"double[n] {task}" for task in own.tasks), nodes=nodes)
    onnx.save(onnx.parser.parse_model(graph), folder / "model.onnx")
    ids = {"account": "source_user_id", "recording": "source_item_id"}
    contract = Contract(
        name=NOISE,
        version="1",
        trained_through=own.trained_through,
        source="nothing",
        license=own.license,
        model="model.onnx",
        inputs=tuple(TeacherInput(name=n, dtype="int64", id="hashed", column=column) for n, column in ids.items()),
        outputs=tuple(TeacherOutput(task=task, kind="value") for task in own.tasks),
    )
    write_contract(contract, folder / CONTRACT_FILE)
