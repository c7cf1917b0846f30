import inspect
import math
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest
import torch

import ml.distillation
from ml.distillation.auxiliary import Auxiliary
from ml.distillation.catalog import build_technique, technique_class
from ml.distillation.direct import Direct
from ml.distillation.interaction import Interaction
from ml.distillation.listwise import Listwise, log_softmax_by
from ml.distillation.non_serving import NonServing
from ml.distillation.projected import Projected
from ml.distillation.representation import Representation
from ml.distillation.technique import Activations, Scale, Technique, Widths, masked_mean_square, perceptron
from ml.foundation.settings import EXAMPLES
from ml.lab.study.design import parse_variant
from ml.surfaces.files import load_surface
from ml.surfaces.learning import DistillationHead
from ml.surfaces.spec import Surface
from ml.surfaces.techniques import techniques
from tests.support.known import present, the

NAN = float("nan")
USERS = torch.tensor([7, 7, 8])
SCALES = {"click": Scale(mean=-1.0, deviation=2.0), "watch": Scale(mean=0.0, deviation=1.0)}


def activations(rows: int = 3, *, grad: bool = False) -> Activations:
    generator = torch.Generator().manual_seed(0)
    bottom = torch.randn(rows, 4, generator=generator).requires_grad_(grad)
    towers = {t: torch.randn(rows, 2, generator=generator).requires_grad_(grad) for t in ("ctr", "trail")}
    interaction = torch.randn(rows, 5, generator=generator).requires_grad_(grad)
    return Activations(bottom, towers, {t: tower.sum(1) for t, tower in towers.items()}, interaction)


def set_to(module: torch.nn.Module, weight: float, bias: float) -> None:
    linear = the(torch.nn.Linear, module)
    torch.nn.init.constant_(linear.weight, weight)
    torch.nn.init.constant_(linear.bias, bias)


def gradient(tensor: torch.Tensor) -> torch.Tensor:
    return present(tensor.grad)


def auxiliary(*heads: DistillationHead) -> Auxiliary:
    made = Auxiliary(heads, SCALES, tower=2)
    for module in made.modules_of_heads:
        set_to(module, 0.0, 0.5)
    return made


def test_the_auxiliary_loss_has_its_golden_value():
    # Predictions are 0.5; z-scores of the teacher are (1 + 1) / 2 = 1, (-3 + 1) / 2 = -1, missing.
    head = DistillationHead(task="ctr", teacher_output="click", weight=0.3)
    loss = auxiliary(head).loss(activations(), {"click": torch.tensor([1.0, -3.0, NAN])}, USERS)
    assert loss.item() == pytest.approx(0.3 * ((0.5 - 1) ** 2 + (0.5 + 1) ** 2) / 2)


def test_the_losses_of_heads_add_up_with_their_weights():
    heads = [
        DistillationHead(task="ctr", teacher_output="click", weight=0.3),
        DistillationHead(task="trail", teacher_output="watch", weight=2.0),
    ]
    soft = {"click": torch.tensor([1.0, -3.0, NAN]), "watch": torch.tensor([0.0, 1.0, 2.0])}
    found = auxiliary(*heads).loss(activations(), soft, USERS).item()
    assert found == pytest.approx(0.3 * 1.25 + 2.0 * (0.25 + 0.25 + 2.25) / 3)


def test_the_non_serving_loss_has_its_golden_value():
    made = NonServing([DistillationHead(teacher_output="click", weight=0.3)], SCALES, bottom=4, tower=(2,))
    tower, head = the(torch.nn.Sequential, made.modules_of_heads[0])
    set_to(the(torch.nn.Sequential, tower)[0], 0.5, 0.0)
    set_to(head, 1.0, -1.0)
    batch = Activations(torch.tensor([[1.0, 1.0, 0.0, 0.0], [-1.0, 0.0, 0.0, 0.0]]), {}, {}, torch.zeros(2, 0))
    # Tower: relu(1), relu(-0.5) in two units; logit 2 * 1 - 1 = 1 and -1; z-scores 0 and 1.
    loss = made.loss(batch, {"click": torch.tensor([-1.0, 1.0])}, USERS)
    assert loss.item() == pytest.approx(0.3 * (1.0 + 4.0) / 2)
    assert made.heads(batch)["click"].tolist() == [1.0, -1.0]


def test_a_step_moves_the_head_towards_the_teacher():
    head = DistillationHead(task="ctr", teacher_output="click", weight=1.0)
    made = auxiliary(head)
    batch, soft = activations(), {"click": torch.tensor([3.0, 3.0, 3.0])}  # z-score 2, the head says 0.5
    before = made.loss(batch, soft, USERS)
    before.backward()
    assert gradient(the(torch.nn.Linear, made.modules_of_heads[0]).bias).item() < 0
    with torch.no_grad():
        for parameter in made.parameters():
            parameter -= 0.1 * gradient(parameter)
    assert made.loss(batch, soft, USERS) < before
    assert made.heads(batch)["ctr/click"].mean() > 0.5


def test_auxiliary_teaches_the_tower_of_its_task_alone_and_no_serving_logit():
    batch = activations(grad=True)
    made = Auxiliary([DistillationHead(task="ctr", teacher_output="click", weight=0.3)], SCALES, tower=2)
    made.loss(batch, {"click": torch.tensor([1.0, -3.0, NAN])}, USERS).backward()
    assert gradient(batch.towers["ctr"])[:2].abs().min() > 0
    assert gradient(batch.towers["ctr"])[2].tolist() == [0, 0]
    assert batch.towers["trail"].grad is None and batch.bottom.grad is None


def test_non_serving_teaches_the_shared_bottom_and_no_tower_of_a_task():
    batch = activations(grad=True)
    torch.manual_seed(0)
    made = NonServing([DistillationHead(teacher_output="click", weight=0.3)], SCALES, bottom=4, tower=(8,))
    made.loss(batch, {"click": torch.tensor([1.0, -3.0, 2.0])}, USERS).backward()
    assert gradient(batch.bottom).abs().sum() > 0
    assert all(tower.grad is None for tower in batch.towers.values())


def test_a_batch_without_soft_labels_costs_nothing_and_its_gradient_is_finite():
    batch = activations(grad=True)
    made = Auxiliary([DistillationHead(task="ctr", teacher_output="click", weight=0.3)], SCALES, tower=2)
    loss = made.loss(batch, {"click": torch.full((3,), NAN)}, USERS)
    loss.backward()
    assert loss.item() == 0
    assert gradient(batch.towers["ctr"]).abs().sum() == 0


def test_masked_mean_square_is_the_mean_square_error_where_nothing_is_missing():
    prediction, target = torch.randn(9), torch.randn(9)
    expected = torch.nn.functional.mse_loss(prediction, target)
    assert masked_mean_square(prediction, target).item() == pytest.approx(expected.item())


def test_the_scale_is_fitted_on_rows_that_have_a_soft_label():
    scale = Scale.fit(torch.tensor([1.0, 3.0, NAN]))
    assert (scale.mean, scale.deviation) == (2.0, 1.0)
    assert Scale.fit(torch.tensor([4.0, 4.0])) == Scale(4.0, 1.0)
    with pytest.raises(ValueError, match="none of 2 rows"):
        Scale.fit(torch.tensor([NAN, NAN]))
    with pytest.raises(ValueError, match="1 of 2 soft labels are infinite"):
        Scale.fit(torch.tensor([math.inf, 0.0]))


def test_an_output_that_the_teacher_lacks_is_refused():
    with pytest.raises(ValueError, match=r"no output 'like'; it has \['click', 'watch'\]"):
        Auxiliary([DistillationHead(task="ctr", teacher_output="like", weight=1.0)], SCALES, tower=2)


@pytest.mark.parametrize("name", techniques())
def test_the_surface_names_its_technique(name: str):
    surface = parse_variant(name).surface(load_surface(EXAMPLES / "simulator/surfaces/homepage.yaml"))
    scales = {output: Scale(0.0, 1.0) for output in ("click", "watch", "continue")}
    made = build_technique(surface, scales, Widths(48, 24, 8), seed=1)
    assert type(made).__module__ == f"ml.distillation.{name}"
    again = build_technique(surface, scales, Widths(48, 24, 8), seed=1)
    assert made is not None and again is not None
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), again.parameters(), strict=True))


def test_a_perceptron_without_layers_passes_its_input_through():
    assert torch.equal(perceptron(3, ())(torch.ones(2, 3)), torch.ones(2, 3))


def test_the_direct_loss_is_cross_entropy_with_the_teachers_probability_or_square_error():
    heads = [
        DistillationHead(task="ctr", teacher_output="click", weight=0.3),
        DistillationHead(task="trail", teacher_output="watch", weight=2.0),
    ]
    outputs = {"ctr": torch.tensor([0.0, 2.0, 5.0]), "trail": torch.tensor([1.0, 0.0, 0.0])}
    batch = Activations(torch.zeros(3, 1), {}, outputs, torch.zeros(3, 0))
    soft = {"click": torch.tensor([0.0, -1.0, NAN]), "watch": torch.tensor([NAN, 3.0, NAN])}
    p = 1 / (1 + math.exp(1.0))
    entropy = (math.log(2) + p * math.log(1 + math.exp(-2.0)) + (1 - p) * math.log(1 + math.exp(2.0))) / 2
    made = Direct(heads, frozenset({"ctr"}))
    assert made.loss(batch, soft, USERS).item() == pytest.approx(0.3 * entropy + 2.0 * 9.0)
    assert not list(made.parameters()), "what serves is all that learns"


def test_the_representation_loss_has_its_golden_value_and_teaches_the_bottom():
    made = Representation([DistillationHead(teacher_output="click", weight=0.5)], SCALES, bottom=4)
    set_to(made.modules_of_heads[0], 1.0, 0.0)
    bottom = torch.tensor([[1.0, 0, 0, 0], [0, 2.0, 0, 0]], requires_grad=True)
    batch = Activations(bottom, {}, {}, torch.zeros(2, 0))
    loss = made.loss(batch, {"click": torch.tensor([-1.0, 3.0])}, USERS[:2])  # z-scores 0 and 2
    loss.backward()
    assert loss.item() == pytest.approx(0.5 * (1.0 + 0.0) / 2)
    assert gradient(bottom)[0].abs().sum() > 0


def test_interaction_teaches_the_branch_with_its_golden_loss_and_no_layer_above_it():
    batch = activations(grad=True)
    made = Interaction([DistillationHead(teacher_output="click", weight=0.5)], SCALES, width=5)
    set_to(made.modules_of_heads[0], 1.0, 0.0)
    loss = made.loss(batch, {"click": torch.tensor([1.0, -3.0, NAN])}, USERS)  # z-scores 1 and -1
    predicted = batch.interaction.detach().sum(1)
    expected = 0.5 * ((predicted[0] - 1) ** 2 + (predicted[1] + 1) ** 2) / 2
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    assert gradient(batch.interaction)[:2].abs().sum() > 0 and gradient(batch.interaction)[2].tolist() == [0] * 5
    assert batch.bottom.grad is None and all(tower.grad is None for tower in batch.towers.values())
    with pytest.raises(ValueError, match=r"teaches network\.interaction, which is missing"):
        Interaction([DistillationHead(teacher_output="click", weight=0.3)], SCALES, width=0)


def test_the_listwise_loss_has_its_golden_value():
    made = Listwise([DistillationHead(task="ctr", teacher_output="watch", weight=0.5)], SCALES, tower=2)
    set_to(made.modules_of_heads[0], 1.0, 0.0)
    tower = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0], [9.0, 0.0], [4.0, 0.0]])
    batch = Activations(torch.zeros(4, 1), {"ctr": tower}, {}, torch.zeros(4, 0))
    soft = {"watch": torch.tensor([0.0, math.log(4.0), 1.0, NAN])}
    # User 7 has two rows: the teacher says 1/5 and 4/5, the head 1/4 and 3/4; users 8 and 9 have no list.
    expected = -(0.2 * math.log(0.25) + 0.8 * math.log(0.75))
    assert made.loss(batch, soft, torch.tensor([7, 7, 8, 7])).item() == pytest.approx(0.5 * expected)
    shifted = {"watch": soft["watch"] + 100.0}
    assert made.loss(batch, shifted, torch.tensor([7, 7, 8, 7])).item() == pytest.approx(0.5 * expected, rel=1e-4)
    assert made.loss(batch, soft, torch.tensor([1, 2, 3, 4])).item() == 0


@pytest.mark.slow
def test_a_softmax_by_group_is_that_of_each_group():
    values, group = torch.tensor([1.0, 1000.0, 3.0, 999.0]), torch.tensor([0, 1, 0, 1])
    found = log_softmax_by(values, group, 2)
    torch.testing.assert_close(found[[0, 2]], torch.log_softmax(values[[0, 2]], 0))
    torch.testing.assert_close(found[[1, 3]], torch.log_softmax(values[[1, 3]], 0))


@pytest.mark.parametrize(
    ("soft", "expected"),
    [
        ([-1.0, 2.0], [2.0 - 1.0 + 1.0, 2.0]),  # against the tasks' (2, 0): what opposes goes, the rest stays
        ([1.0, 2.0], [2.0 + 1.0, 2.0]),  # with them: as it is
    ],
)
@pytest.mark.parametrize("sparse", [False, True])
def test_projected_heads_give_way_where_they_oppose_the_tasks(soft: list[float], expected: list[float], sparse: bool):
    table, task_only = torch.nn.Embedding(3, 2, sparse=sparse), torch.nn.Linear(1, 1, bias=False)
    made = Projected([DistillationHead(task="ctr", teacher_output="click", weight=1.0)], SCALES, tower=2)
    ranker = torch.nn.ModuleDict({"table": table, "task_only": task_only, "distillation": made})
    head, shared = the(torch.nn.Linear, made.modules_of_heads[0]).weight, table(torch.tensor([1, 1])).mean(dim=0)
    tasks = (shared * torch.tensor([2.0, 0.0])).sum() + 3.0 * task_only.weight.sum()
    made.backward(tasks, (shared * torch.tensor(soft)).sum() + 5.0 * head.sum(), ranker)
    of_table = gradient(table.weight)
    assert of_table.is_sparse == sparse
    found = of_table.to_dense() if sparse else of_table
    assert found[1].tolist() == pytest.approx(expected) and found[[0, 2]].abs().sum() == 0
    assert gradient(task_only.weight).flatten().tolist() == [3.0]
    assert gradient(head).flatten().tolist() == [5.0, 5.0]


@pytest.mark.parametrize(
    ("technique", "head", "reason"),
    [
        ("direct", {"task": "ctr", "teacher_output": "click", "weight": 1, "centre_by": "user_id"}, "cannot centre"),
        ("listwise", {"task": "nothing", "teacher_output": "click", "weight": 1}, "names task 'nothing'"),
        ("interaction", {"task": "ctr", "teacher_output": "click", "weight": 1}, "technique interaction names no task"),
        ("representation", {"task": "ctr", "teacher_output": "click", "weight": 1}, "names no task"),
    ],
)
def test_heads_that_do_not_fit_their_technique_are_refused(technique: str, head: dict[str, object], reason: str):
    content = load_surface(EXAMPLES / "simulator/surfaces/homepage.yaml").model_dump(mode="json", by_alias=True)
    content["distillation"] = {"technique": technique, "heads": [head]}
    with pytest.raises(ValueError, match=reason):
        Surface.model_validate(content)


ONE_FILE = """\"\"\"Constant heads: learn nothing.\"\"\"

from ml.distillation.auxiliary import Auxiliary

HEADS = {"task": True, "centre_by": False}


class Constant(Auxiliary):
    pass
"""


def test_a_technique_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "constant.py").write_text(ONE_FILE)
    (tmp_path / "helper.py").write_text("SCALE = 1\n")
    listed = techniques(tmp_path)
    assert list(listed) == ["constant"] and listed["constant"].summary == "Constant heads: learn nothing."
    assert listed["constant"].heads.task and not listed["constant"].heads.centre_by
    monkeypatch.setattr(ml.distillation, "__path__", [*ml.distillation.__path__, str(tmp_path)])
    assert technique_class("constant").__name__ == "Constant"


@pytest.mark.parametrize(
    ("heads", "reason"),
    [('{"tasks": True}', r"constant\.py: HEADS: .*tasks"), ("dict(task=True)", r"constant\.py: HEADS: malformed")],
    ids=["a key that there is not", "no literal"],
)
def test_a_declaration_that_cannot_be_read_names_its_file(heads: str, reason: str, tmp_path: Path):
    (tmp_path / "constant.py").write_text(f"HEADS = {heads}\n")
    with pytest.raises(ValueError, match=f"(?s){reason}"):
        techniques(tmp_path)


def test_every_file_with_a_technique_is_listed():
    built = set()
    for file in iter_modules(ml.distillation.__path__):
        module = import_module(f"ml.distillation.{file.name}")
        own = [k for k in vars(module).values() if inspect.isclass(k) and k.__module__ == module.__name__]
        built |= {file.name for kind in own if issubclass(kind, Technique) and not inspect.isabstract(kind)}
    assert set(techniques()) == built


def test_a_technique_that_there_is_not_is_refused_with_the_nearest():
    content = load_surface(EXAMPLES / "simulator/surfaces/homepage.yaml").model_dump(mode="json", by_alias=True)
    content["distillation"] = {"technique": "interactoin", "heads": []}
    with pytest.raises(ValueError, match=r"(?s)distillation\.technique.*'interactoin'.*'interaction' is near"):
        Surface.model_validate(content)
