from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ml.distillation.soft_heads import SoftHeads
from ml.foundation.lake import Lake
from ml.foundation.settings import PROJECT_ROOT
from ml.lab.live.design import Design as LiveDesign
from ml.lab.live.design import load_design as load_live_design
from ml.lab.study.design import (
    KUAIRAND,
    TECHNIQUES,
    Condition,
    Design,
    Part,
    Trial,
    World,
    design_names,
    load_design,
    parse_variant,
)
from ml.lab.study.noise import prepare_noise
from ml.lab.study.trials import Bench, Lagged, relabelled, thinned, trained_surface, with_scores, with_vectors
from ml.students.dataset import Dataset
from ml.students.network import Ranker
from ml.students.preprocessing import Preprocessing
from ml.students.train import fit
from ml.surfaces.files import load_surface
from ml.surfaces.techniques import techniques
from ml.teacher.contract import load_contract
from tests.checks.conftest import make_home
from tests.support.known import present

pytestmark = pytest.mark.slow

KEYS = {"shuffled": "day", "within_item": "item_id", "within_user": "user_id"}


def dataset(n: int, seed: int) -> Dataset:
    rng = np.random.default_rng(seed)
    ids = {name: torch.from_numpy(rng.integers(1, 4, n)) for name in ("user_id", "item_id")}
    day = torch.from_numpy(np.sort(rng.integers(0, 3, n)))
    click = torch.arange(n, dtype=torch.float32)
    return Dataset(ids, {}, {"click": click, "watch": 2 * click}, torch.arange(n), ids["user_id"], day)


@given(n=st.integers(1, 40), seed=st.integers(0, 99), labels=st.sampled_from(sorted(KEYS)))
@settings(max_examples=60, deadline=None)
def test_swapped_labels_stay_in_their_day_and_group_and_outputs_of_a_row_stay_together(n: int, seed: int, labels: str):
    data = dataset(n, seed)
    other = relabelled(data, labels, seed)  # type: ignore[arg-type]
    assert torch.equal(other.soft_labels["watch"], 2 * other.soft_labels["click"])
    key = data.day if labels == "shuffled" else data.inputs[KEYS[labels]]

    def held(d: Dataset) -> Counter[tuple[int, int, float]]:
        columns = (data.day.tolist(), key.tolist(), d.soft_labels["click"].tolist())
        return Counter(zip(*columns, strict=True))

    assert held(data) == held(other)


def test_a_placebo_moves_labels_and_a_seed_repeats_it():
    data = dataset(400, 1)
    for labels in ("shuffled", "noise", "within_item", "within_user"):
        first, again, other = (relabelled(data, labels, seed).soft_labels["click"] for seed in (1, 1, 2))
        assert torch.equal(first, again) and not torch.equal(first, other)
        assert (first != data.soft_labels["click"]).float().mean() > 0.5
    assert relabelled(data, "as_is", 1) is data


def test_noise_leaves_missing_labels_missing():
    data = dataset(50, 1)
    data.soft_labels["click"][::5] = float("nan")
    noise = relabelled(data, "noise", 1).soft_labels["click"]
    assert torch.equal(noise.isnan(), data.soft_labels["click"].isnan())


def test_a_ceiling_is_a_control_that_reads_what_the_teacher_said_of_each_row():
    surface = load_surface(PROJECT_ROOT / "examples/simulator/surfaces/homepage.yaml")
    ceiling = parse_variant("ceiling")
    assert (ceiling.distils, ceiling.placebo, ceiling.control) == (False, False, "control")
    inputs = ceiling.surface(surface).inputs
    assert set(inputs) - set(surface.inputs) == {"teacher_click", "teacher_watch"}
    data = dataset(30, 1)
    read = with_scores(data, surface).inputs
    assert torch.equal(read["teacher_click"], data.soft_labels["click"]) and set(read) == {
        *data.inputs,
        *(set(inputs) - set(surface.inputs)),
    }


def test_a_second_teacher_doubles_the_heads_and_leaves_the_rest_of_the_ranker_as_it_is():
    surface = load_surface(PROJECT_ROOT / "examples/simulator/surfaces/homepage.yaml")
    two = parse_variant("student beside_noise").surface(surface)
    own = surface.distillation.heads
    assert [h.teacher_output for h in two.distillation.heads] == [
        f"{teacher}/{head.teacher_output}" for teacher in ("own", "noise") for head in own
    ]
    assert [(h.weight, h.centre_by) for h in two.distillation.heads] == 2 * [(h.weight, h.centre_by) for h in own]
    assert (two.inputs, two.network, two.training) == (surface.inputs, surface.network, surface.training)
    with pytest.raises(ValueError, match="beside_noise is for what learns"):
        parse_variant("control beside_noise")


def test_the_second_teacher_labels_every_row_beside_the_own_and_knows_nothing(tmp_path: Path):
    home, surface = make_home(tmp_path / "home")
    with Lake(home) as lake:
        ids = "exposure_id * 7919 as source_user_id, 3 as source_item_id"
        rows = lake.sql(f"select *, {ids} from lake.features.teacher_inputs_tiny")
        lake.add_columns("features.teacher_inputs_tiny", rows.schema)
        lake.replace_days("features.teacher_inputs_tiny", rows, rows["day"].to_pylist())
    own = load_contract(present(home.teacher))
    bench = Bench(home, surface, own)
    data = bench.beside_noise
    assert list(data.soft_labels) == ["own/click", "noise/click"]
    assert torch.equal(data.soft_labels["own/click"], bench.train.soft_labels["click"])
    noise, rate = data.soft_labels["noise/click"].numpy(), data.inputs["item_ctr"].numpy()
    assert np.isfinite(noise).all() and noise.std() == pytest.approx(12**-0.5, abs=0.03)
    assert abs(np.corrcoef(noise, rate)[0, 1]) < 0.1
    again = prepare_noise(home, own)
    assert again == load_contract(home.home / "noise"), "made once"
    two = parse_variant("student beside_noise").surface(surface)
    trained, _ = fit(data, two, technique=two.distillation.technique, seed=1)
    assert isinstance(trained.distillation, SoftHeads) and len(trained.distillation.specs) == 2


def test_an_variant_changes_only_what_it_names():
    surface = load_surface(PROJECT_ROOT / "examples/simulator/surfaces/homepage.yaml")
    assert parse_variant("student").surface(surface) == surface
    assert parse_variant("student shuffled").surface(surface) == surface
    uncentred = parse_variant("student uncentred").surface(surface)
    assert all(h.centre_by is None for h in uncentred.distillation.heads)
    few = parse_variant("student few_users").surface(surface).distillation.few_rows
    assert few is not None and few.input == "user_id"
    assert parse_variant("student few_users without_ids").surface(surface).distillation.few_rows is None
    bare = parse_variant("student without_ids").surface(surface)
    assert not any(spec.type == "id" for spec in bare.inputs.values()) and bare.network.interaction is None
    assert all("_id" not in name for pair in bare.network.products for name in pair)
    assert set(surface.inputs) - set(bare.inputs) == {"user_id", "item_id", "creator_id"}


@pytest.mark.parametrize("name", ["homepage", "radio"])
def test_a_branchless_control_has_no_branch_and_as_many_parameters(name: str):
    surface = load_surface(PROJECT_ROOT / f"examples/simulator/surfaces/{name}.yaml")
    variant = parse_variant("control branchless")
    assert not variant.distils and variant.control == "control"
    bare = variant.surface(surface)
    assert bare.network.interaction is None and bare.inputs["user_id"].embedding == 32
    counts = {"user_id": 2500, "item_id": 1500, "creator_id": 300}
    sizes = []
    for made in (surface, bare):
        own = {n for n, spec in made.inputs.items() if spec.type in ("id", "category") and spec.vocabulary is None}
        vocabularies = {n: np.arange(1, counts.get(n, 12) + 1) for n in own}
        ranker = Ranker(made, Preprocessing(made.inputs, vocabularies), seed=1)
        sizes.append(sum(parameter.numel() for parameter in ranker.parameters()))
    assert 0.95 < sizes[1] / sizes[0] < 1.05


@pytest.mark.parametrize("name", ["homepage", "radio"])
def test_every_technique_fits_the_heads_of_every_surface(name: str):
    surface = load_surface(PROJECT_ROOT / f"examples/simulator/surfaces/{name}.yaml")
    for technique in TECHNIQUES:
        changed = parse_variant(technique).surface(surface).distillation
        assert changed.technique == technique
        assert [h.teacher_output for h in changed.heads] == [h.teacher_output for h in surface.distillation.heads]
        assert all((h.task is not None) == techniques()[technique].heads.task for h in changed.heads)


def test_another_technique_has_the_weights_of_its_study_and_the_surfaces_own_keeps_its():
    surface = load_surface(PROJECT_ROOT / "examples/simulator/surfaces/homepage.yaml")
    weights = {
        variant.name: [head.weight for head in variant.surface(surface).distillation.heads]
        for variant in load_design("full").variants
    }
    assert weights["auxiliary"] == weights["auxiliary shuffled"] == [0.03, 0.05]
    assert weights["student"] == weights["student noise"] == [h.weight for h in surface.distillation.heads]


def test_a_condition_holds_for_control_and_variant_alike():
    surface = load_surface(PROJECT_ROOT / "examples/simulator/surfaces/homepage.yaml")
    world = World(preset="tiny", seed=1)
    for variant in ("control", "student"):
        trial = Trial(world, "homepage", parse_variant(variant), 1, Condition(capacity=2, weight=3))
        made = trained_surface(trial, surface)
        assert made.network.bottom == (192,) and made.network.tower == (96,) and made.inputs["user_id"].embedding == 32
        assert made.network.interaction is not None and made.network.interaction.embedding == 32
        assert [h.weight for h in made.distillation.heads] == [3 * h.weight for h in surface.distillation.heads]
    assert Condition(volume=0.5).label == "volume 0.5" and Condition().label == ""


def test_a_share_of_the_rows_is_the_same_for_every_variant_and_keeps_its_order():
    data = dataset(1000, 1)
    half, again = thinned(data, 0.5, 3), thinned(data, 0.5, 3)
    assert torch.equal(half.exposure_id, again.exposure_id) and 430 < len(half) < 570
    assert torch.all(half.exposure_id.diff() > 0) and thinned(data, 1, 3) is data


def test_a_study_lists_controls_before_variants_the_teacher_once_and_no_trial_twice():
    parts = [
        {"worlds": (1,), "variants": ("student", "student without_ids")},
        {"worlds": (1,), "variants": ("student",)},
    ]
    design = Design.model_validate(
        {"name": "t", "description": "", "preset": "tiny", "seeds": (1, 2), "surfaces": ("homepage",), "parts": parts}
    )
    names = [trial.variant.name for trial in design.trials() if trial.seed in (0, 1)]
    assert names == ["teacher", "control", "control without_ids", "student", "student without_ids"]
    assert len(design.trials()) == 1 + 2 * 4


def test_kuairands_tabs_are_worlds_of_their_own_and_a_surface_without_tabs_has_no_trial():
    design = load_design("kuairand")
    found = design.by_world()
    assert {w.homepage_tabs for w in found} == {None, (0,), (4,), (0, 2, 4, 6)}
    assert len({w.name for w in found}) == 4
    surfaces = {w.homepage_tabs: {t.surface for t in trials} for w, trials in found.items()}
    assert surfaces.pop((0, 2, 4, 6)) == {"homepage"}
    assert all(names == {"homepage", "radio"} for names in surfaces.values())
    labels = [condition.label for condition in design.conditions]
    assert labels == ["", "homepage_tabs 0", "homepage_tabs 4", "homepage_tabs 0+2+4+6"]


def test_what_a_study_lacks_is_named():
    with pytest.raises(ValueError, match=r"no study 'huge'; there are \['demo', 'few_rows', "):
        load_design("huge")
    with pytest.raises(ValueError, match="study 'nulls' has another name, 'placebos': `crossfade study run placebos`"):
        load_design("nulls")
    with pytest.raises(
        ValueError, match=r"variant 'magic': 'magic' is none of \['control', 'ceiling', 'student', 'auxiliary'"
    ):
        parse_variant("magic")
    with pytest.raises(ValueError, match=r"variant 'student tuned': 'tuned' is none of"):
        parse_variant("student tuned")


def test_a_key_of_a_design_that_has_another_name_is_refused_with_it():
    with pytest.raises(ValueError, match=r"arms: \['student'\]: this key is called `variants`"):
        Part.model_validate({"worlds": (1,), "arms": ["student"]})
    live = load_live_design("quick").model_dump()
    live["arms"] = live.pop("variants")
    with pytest.raises(ValueError, match="this key is called `variants`"):
        LiveDesign.model_validate(live)


def test_no_world_that_settings_were_chosen_on_is_in_a_study():
    for name in design_names():
        if load_design(name).preset == KUAIRAND:
            continue  # no simulated world: forward in time, judged on days after all that settings were chosen on
        assert not {1, 101, 102, 103} & set(load_design(name).worlds)


@pytest.mark.parametrize(
    ("word", "declared"),
    [
        ("unshown", {"per_exposure": 4, "rule": "uniform"}),
        ("unshown_2", {"per_exposure": 2, "rule": "uniform"}),
        ("unshown_popular", {"per_exposure": 4, "rule": "popular"}),
        ("unshown_popular_1", {"per_exposure": 1, "rule": "popular"}),
    ],
)
def test_a_variant_learns_pairs_that_nobody_was_shown_and_changes_nothing_else(word: str, declared: dict[str, object]):
    surface = load_surface(PROJECT_ROOT / "examples/simulator/surfaces/homepage.yaml")
    content = surface.model_dump(mode="json", by_alias=True)
    content["distillation"]["unshown"] = declared
    found = parse_variant(f"student {word} noise").surface(surface)
    assert found.model_dump(mode="json", by_alias=True) == content
    assert parse_variant(f"student {word} noise").placebo and parse_variant(f"student {word}").control == "control"
    assert parse_variant("auxiliary").surface(found).distillation.unshown is None
    with pytest.raises(ValueError, match=r"technique auxiliary does not teach: leave it out"):
        parse_variant(f"auxiliary {word}").surface(surface)


def test_a_row_reads_the_latest_vector_of_the_days_before_its_own_and_zeros_where_there_is_none():
    known = Lagged(
        ids=np.array([1, 1, 2]),
        days=np.array([10, 12, 11]),
        vectors=np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]], dtype=np.float32),
        window=3,
    )
    cases = {(1, 10): 0, (1, 11): 1, (1, 12): 1, (1, 13): 2, (1, 15): 2, (1, 16): 0, (2, 11): 0, (2, 12): 3, (3, 12): 0}
    ids, days = np.array(list(cases)).T
    values, flags = known.read(ids, days)
    assert values[:, 1].tolist() == list(cases.values()) and flags.tolist() == [float(v > 0) for v in cases.values()]
    rows = dataset(9, 0)
    read = with_vectors(rows, {"user": known, "item": known})
    assert read.inputs["teacher_item_vector"].shape == (9, 2) and read.inputs["teacher_user_known"].shape == (9,)


@pytest.mark.parametrize(
    ("name", "placebo"),
    [
        ("student vectors", False),
        ("student vectors_shuffled", False),
        ("control vectors_noise", True),
        ("student vectors_noise shuffled", True),
        ("student vectors shuffled", False),
        ("control vectors", False),
    ],
)
def test_vectors_are_inputs_and_a_placebo_of_them_is_one_where_nothing_else_is_learnt(name: str, placebo: bool):
    surface = load_surface(PROJECT_ROOT / "examples/simulator/surfaces/homepage.yaml")
    variant = parse_variant(name)
    found = variant.surface(surface)
    assert found.inputs.keys() - surface.inputs.keys() == {
        f"teacher_{entity}_{column}" for entity in ("user", "item") for column in ("vector", "known")
    }
    assert [*surface.network.products, ("teacher_user_vector", "teacher_item_vector")] == list(found.network.products)
    assert variant.placebo is placebo
    with pytest.raises(ValueError, match="have no vectors here"):
        parse_variant("student vectors unshown")


def test_worlds_have_teachers_with_vectors_where_a_variant_reads_them_and_only_there():
    with_them = {name for name in design_names() if load_design(name).vectors}
    assert with_them == {"vectors"}
    assert all(trial.world.name.endswith("-vectors") for trial in load_design("vectors").trials())
