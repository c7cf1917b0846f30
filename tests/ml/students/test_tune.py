from ml.foundation.documents import parse_yaml
from ml.students.dataset import TrainingSet
from ml.students.tune import Trial, apply, as_yaml, tune
from ml.surfaces.spec import Surface


def test_tuning_ranks_settings_by_validation_days_and_repeats_for_a_seed(
    settings, training_set: TrainingSet, surface: Surface
):
    small = training_set.model_copy(update={"train_days": training_set.train_days[:4]})
    seen: list[Trial] = []
    trials = tune(settings, small, surface, trials=2, seed=1, progress=lambda done, of, trial: seen.append(trial))
    assert len(trials) == 2 and sorted(seen, key=lambda t: t.unexplained) == trials
    assert trials[0].unexplained <= trials[1].unexplained
    assert seen[0].settings["learning_rate"] == surface.training.learning_rate
    assert seen[0].settings["weight_decay"] == surface.training.weight_decay
    assert {"ctr auc", "trail r2", "unexplained", "embedding"} <= set(trials[0].row())
    again = tune(settings, small, surface, trials=2, seed=1)
    assert [t.row() for t in again] == [t.row() for t in trials]


def test_a_setting_changes_the_recipe_and_the_size_of_ids_only(surface: Surface):
    chosen = {
        "learning_rate": 0.1,
        "final_rate": 0.5,
        "weight_decay": 0.0,
        "batch_size": 64,
        "epochs": 3,
        "embedding": 4,
    }
    changed = apply(surface, chosen)
    assert changed.training.batch_size == 64 and changed.training.unknown_share == surface.training.unknown_share
    assert {n for n, s in changed.inputs.items() if s != surface.inputs[n]} == {"user_id", "item_id", "creator_id"}
    assert changed.inputs["user_id"].embedding == 4


def test_a_trial_as_lines_for_the_surfaces_file_is_that_trial(surface: Surface):
    chosen = {"learning_rate": 0.0123456789, "weight_decay": 5e-7, "epochs": 2, "batch_size": 64, "embedding": 4}
    lines = parse_yaml(as_yaml(surface, Trial(chosen, 0.9, {})))
    content = surface.model_dump(mode="json", by_alias=True)
    merged = Surface.model_validate(
        content
        | {"training": content["training"] | lines["training"]}
        | {"inputs": {name: spec | lines["inputs"].get(name, {}) for name, spec in content["inputs"].items()}}
    )
    assert merged == apply(surface, chosen)
    assert set(lines["inputs"]) == {"user_id", "item_id", "creator_id"}
    assert "inputs" not in parse_yaml(as_yaml(merged, Trial(chosen, 0.9, {})))
