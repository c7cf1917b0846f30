import numpy as np
import pytest
import torch

from benchmarks.synthetic import reduced
from ml.students.dataset import TrainingSet, load
from ml.students.network import Ranker
from ml.students.preprocessing import Preprocessing
from ml.students.train import build_ranker
from ml.surfaces.spec import Surface
from tests.support.known import present, the

NO_HEADS = {"technique": "none", "heads": []}


@pytest.fixture(scope="module")
def data(settings, training_set: TrainingSet, surface: Surface):
    return load(settings, training_set, surface, training_set.train_days[:2], soft_labels=True)


def test_a_student_starts_from_the_bits_of_its_control(data, surface: Surface):
    control = build_ranker(data, surface, technique="none", seed=3).state_dict()
    student = build_ranker(data, surface, technique="interaction", seed=3).state_dict()
    extra = set(student) - set(control)
    assert extra and all(name.startswith("distillation.") for name in extra)
    for name, value in control.items():
        assert torch.equal(value, student[name]), name


def test_another_seed_starts_elsewhere(data, surface: Surface):
    first, second = (build_ranker(data, surface, technique="none", seed=seed).state_dict() for seed in (1, 2))
    assert not torch.equal(first["factors.tables._user_id.weight"], second["factors.tables._user_id.weight"])


def test_creating_a_ranker_leaves_the_global_generator_alone(data, surface: Surface):
    before = torch.get_rng_state()
    build_ranker(data, surface, technique="interaction", seed=3)
    assert torch.equal(before, torch.get_rng_state())


def test_outputs_start_at_the_base_rates(data, surface: Surface):
    ranker = build_ranker(data, surface, technique="none", seed=1)
    rate = torch.nanmean(data.labels["ctr"])
    ctr, trail = (the(torch.nn.Linear, ranker.heads[f"_{task}"]).bias for task in ("ctr", "trail"))
    assert torch.sigmoid(ctr).item() == pytest.approx(rate.item(), abs=1e-6)
    assert trail.item() == pytest.approx(torch.nanmean(data.labels["trail"]).item(), abs=1e-5)


def test_the_score_is_rank_by_over_the_outputs(data, surface: Surface):
    ranker = build_ranker(data, surface, technique="interaction", seed=1).eval()
    with torch.no_grad():
        out = {name: values.numpy() for name, values in ranker(data.inputs).items()}
    assert list(out) == [*surface.tasks, "score"]
    assert all(values.shape == (len(data),) and np.isfinite(values).all() for values in out.values())
    np.testing.assert_allclose(out["score"], ranker.rank_by(out), rtol=1e-5)


def test_names_of_module_methods_are_fine_as_inputs_and_tasks(surface: Surface):
    content = surface.model_dump(mode="json", by_alias=True)
    content["inputs"] = {"type": {"kind": "request", "type": "category", "embedding": 2}}
    content["network"] |= {"products": [], "interaction": None}
    content["tasks"] = {"eval": {"kind": "binary", "label": "label_eval"}}
    content |= {
        "rank_by": "eval",
        "first_release": None,
        "distillation": {"technique": "none"},
        "gate": content["gate"],
    }
    content["gate"] |= {"quality": {"eval": {"min": 0.5, "margin": 0.01}}}
    content["gate"]["data"]["label_rate"] = {"eval": [0.01, 0.9]}
    odd = Surface.model_validate(content)
    columns = {"type": torch.tensor([1, 2, 9])}
    out = Ranker(odd, Preprocessing.fit(odd.inputs, {"type": torch.tensor([1, 2])}), 0)(columns)
    assert list(out) == ["eval", "score"]


def test_products_of_inputs_without_a_common_size_are_refused(surface: Surface):
    for pair in (["user_id", "hour"], ["user_id", "item_age_days"], ["content_embedding", "short"]):
        short = {"kind": "daily", "type": "vector", "length": 3, "from": "feat_item.short"}
        network = {"products": [pair], "interaction": None}
        broken = reduced(surface, surface.inputs, inputs={"short": short}, network=network, distillation=NO_HEADS)
        with pytest.raises(ValueError, match=rf"product \[{pair[0]}, {pair[1]}\]"):
            Ranker(broken, Preprocessing.fit(broken.inputs, _zeros(broken)), 0)


def test_two_vectors_of_one_length_are_multiplied_as_they_are(surface: Surface, data):
    pair = ["content_embedding", "content_embedding"]
    network = {"products": [pair], "interaction": None}
    bare = reduced(surface, surface.inputs, network=network, distillation=NO_HEADS)
    ranker = build_ranker(data, bare, technique="none", seed=1)
    read: list[torch.Tensor] = []
    ranker.bottom.register_forward_pre_hook(lambda module, given: read.append(given[0]))
    rows, dense = ranker.preprocessing.convert(data.inputs)
    ranker.activations(rows, dense)
    content = dense[:, ranker.preprocessing.slices["content_embedding"]]
    torch.testing.assert_close(read[0][:, -content.shape[1] :], content.square())


def test_a_task_named_like_an_input_is_refused(surface: Surface):
    content = surface.model_dump(mode="json", by_alias=True)
    content["tasks"]["row"] = content["tasks"]["ctr"]
    broken = Surface.model_validate(content)
    with pytest.raises(ValueError, match=r"\['row'\] name both"):
        Ranker(broken, Preprocessing.fit(broken.inputs, _zeros(broken)), 0)


def _zeros(surface: Surface) -> dict[str, torch.Tensor]:
    kinds = {"int64": torch.int64, "float32": torch.float32}
    return {name: torch.zeros((2, *spec.shape), dtype=kinds[spec.dtype]) for name, spec in surface.inputs.items()}


def test_a_taught_branch_learns_from_the_teacher_alone_and_the_controls_branch_from_the_tasks(surface: Surface, data):
    assert surface.distillation.technique == "interaction"
    gradients = {}
    for technique in ("none", "interaction"):
        ranker = build_ranker(data, surface, technique=technique, seed=1)
        outputs = ranker.activations(*ranker.preprocessing(data.inputs)).outputs
        torch.stack([values.sum() for values in outputs.values()]).sum().backward()
        assert ranker.branch is not None
        gradients[technique] = [p.grad for p in ranker.branch.parameters()]
        assert present(the(torch.nn.Embedding, ranker.factors.tables["_user_id"]).weight.grad).abs().sum() > 0
    assert all(g is not None and g.abs().sum() > 0 for g in gradients["none"])
    assert all(g is None for g in gradients["interaction"])


def test_the_branch_has_tables_of_its_own_for_the_ids_that_are_paired(surface: Surface, data):
    ranker = build_ranker(data, surface, technique="none", seed=1)
    assert ranker.branch is not None and surface.network.interaction is not None
    paired = {name for pair in surface.network.products for name in pair if surface.inputs[name].type == "id"}
    assert {f"_{name}" for name in paired} >= set(ranker.branch.factors.tables)
    assert "_hour" in ranker.factors.tables and "_hour" not in ranker.branch.factors.tables
    size = surface.network.interaction.embedding
    assert all(
        the(torch.nn.Embedding, table).weight.shape[1] == size for table in ranker.branch.factors.tables.values()
    )
    assert not any(a is b for a in ranker.branch.parameters() for b in ranker.factors.parameters())
