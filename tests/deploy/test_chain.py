"""What the demo promises, read back from the home that it leaves: figures, lineage, release, refusals."""

import json
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import r2_score, roc_auc_score

from ml.foundation.lake import Lake
from ml.foundation.settings import Settings
from ml.releases.refusals import PromotionRefused, Refusal
from ml.releases.store import ReleaseStore
from ml.surfaces.files import load_surfaces
from ml.surfaces.spec import Surface
from tests.support.commands import home_environment
from tests.support.known import present, the
from tests.support.pages import as_shown

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def settings(tiny_demo: Path) -> Settings:
    return Settings(home=tiny_demo, surfaces_dir=ROOT / "tests" / "surfaces", threads=1)


@pytest.fixture(scope="module")
def surfaces(settings: Settings) -> dict[str, Surface]:
    return load_surfaces(settings)


@pytest.fixture(scope="module")
def report(settings: Settings) -> dict[str, Any]:
    return json.loads((settings.reports_dir / "demo.json").read_text(encoding="utf-8"))


def test_the_report_has_every_promised_key(report: dict[str, Any]) -> None:
    assert report["source"] == "simulator"
    assert {
        "total",
        "landing",
        "features",
        "teacher",
        "soft_labels",
        "students",
        "evaluation",
        "onnx",
        "release",
    } <= set(report["seconds"])
    assert report["peak_rss_mb"] > 0
    assert report["landing"]["rows_in"] == report["landing"]["rows_loaded"] + report["landing"]["rows_quarantined"] > 0
    assert set(report["surfaces"]) == {"homepage", "radio"}
    for name, surface in report["surfaces"].items():
        assert {"rows", "defaulted_input_share", "parameters", "tasks", "slices", "verdict", "release"} <= set(surface)
        assert surface["rows"]["train"] > 0 < surface["rows"]["test"]
        assert 0.2 < surface["defaulted_input_share"] < 0.6
        assert surface["parameters"]["teacher"] > surface["parameters"]["student"] > 0
        assert surface["verdict"]["decision"] == "pass", name
        assert surface["verdict"]["because"].startswith("no guard objects")
        assert Path(surface["verdict"]["path"]).is_file()
        assert (Path(surface["release"]["path"]) / "model.onnx").is_file()
        assert surface["answer"]["release"] == surface["release"]["id"]
        assert len(surface["answer"]["items"]) > 1
        for task in surface["tasks"].values():
            assert {
                "metric",
                "teacher",
                "control",
                "student",
                "delta",
                "delta_lo",
                "delta_hi",
                "n",
                "positives",
            } <= set(task)
            assert task["delta_lo"] <= task["delta"] <= task["delta_hi"]


def test_every_figure_is_recomputed_from_the_predictions_with_scikit_learn(
    settings: Settings, surfaces: dict[str, Surface], report: dict[str, Any]
) -> None:
    checked = 0
    with Lake(settings) as lake:
        for name, surface in surfaces.items():
            for task, figures in report["surfaces"][name]["tasks"].items():
                spec = surface.tasks[task]
                recomputed = {}
                for model in ("teacher", "control", "student"):
                    rows = lake.sql(
                        f"select e.{spec.label} as label, p.score from lake.ml.predictions_{name} as p "
                        f"join lake.features.examples_{name} as e on e.exposure_id = p.exposure_id and e.day = p.day "
                        f"where p.partition = ? and p.model = ? and p.task = ? and p.inputs = 'serving' "
                        f"and e.{spec.label} is not null",
                        [settings.last_day, model, task],
                    )
                    if not rows.num_rows:
                        assert figures[model] is None
                        continue
                    label, score = (rows[c].to_numpy().astype(float) for c in ("label", "score"))
                    metric = roc_auc_score if spec.kind == "binary" else r2_score
                    recomputed[model] = metric(label, score)
                    assert figures[model] == pytest.approx(recomputed[model], abs=1e-6), (name, task, model)
                    assert figures["n"] == len(label) or model == "teacher"
                    checked += 1
                assert figures["delta"] == pytest.approx(recomputed["student"] - recomputed["control"], abs=1e-6)
    assert checked >= 10


def test_the_released_model_gives_the_scores_that_were_judged(settings: Settings, surfaces: dict[str, Surface]) -> None:
    import onnxruntime

    from ml.students.columns import to_arrays

    store = ReleaseStore(settings.artifacts_dir)
    with Lake(settings) as lake:
        for name, surface in surfaces.items():
            champion = store.champion(name)
            assert champion is not None
            kind = champion.release.manifest.kind
            rows = lake.sql(
                f"select e.* from lake.features.examples_{name} as e where e.day = any(?::date[]) "
                "order by md5(exposure_id::varchar) limit 1000",
                [[str(day) for day in champion.release.manifest.eval_days]],
            )
            session = onnxruntime.InferenceSession(str(champion.release.model), providers=["CPUExecutionProvider"])
            arrays = to_arrays(rows, surface.inputs, "serving")
            outputs = dict(zip((o.name for o in session.get_outputs()), session.run(None, arrays), strict=True))
            for task in surface.tasks:
                stored = lake.sql(
                    f"select exposure_id, score from lake.ml.predictions_{name} where partition = ? and model = ? "
                    "and task = ? and inputs = 'serving'",
                    [settings.last_day, kind, task],
                )
                by_id = dict(zip(stored["exposure_id"].to_pylist(), stored["score"].to_pylist(), strict=True))
                wanted = np.array([by_id[i] for i in rows["exposure_id"].to_pylist()])
                np.testing.assert_allclose(the(np.ndarray, outputs[task]), wanted, atol=1e-4)
            assert rows.num_rows > 500


def test_students_never_see_the_sisters_side_except_through_soft_labels(
    tiny_demo: Path, settings: Settings, surfaces: dict[str, Surface]
) -> None:
    import dagster as dg

    from deploy.definitions import build_definitions

    graph = build_definitions(settings).resolve_asset_graph()
    for name in surfaces:
        student = graph.get(dg.AssetKey([name, "student"]))
        seen, queue = set(), [student.key]
        while queue:
            key = queue.pop()
            if key in seen or key.path[-1] == "soft_labels":
                continue
            seen.add(key)
            queue += graph.get(key).parent_keys
        assert not [key for key in seen if "source_" in key.path[-1] or key.path[0].startswith("teacher")]
        with Lake(settings) as lake:
            assert not [c for c in lake.columns(f"features.examples_{name}") if c.startswith("source_")]


def test_what_pages_select_is_in_the_graph(settings: Settings, tmp_path: Path) -> None:
    import dagster as dg

    from deploy.definitions import build_definitions

    for name, more in {"homepage": "rankings: {candidates: rankings/homepage.sql, top_k: 50}\n", "radio": ""}.items():
        text = f"extends: {ROOT}/tests/surfaces/{name}.yaml\n{more}"
        (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
    shown = Settings(home=settings.home, surfaces_dir=tmp_path, threads=1)
    graph = build_definitions(shown).resolve_asset_graph()

    def selected(words: list[str]) -> set[str]:
        assert words[:4] == ["asset", "materialize", "-m", "deploy.definitions"]
        return {key.to_user_string() for key in dg.AssetSelection.from_string(words[-1]).resolve(graph)}

    tables = as_shown(
        "dagster asset materialize -m deploy.definitions --partition-range 2026-03-01...2026-03-30 --select "
        '\'key:"features/feat_item" or key:"homepage/examples" or key:"features/serving_snapshot"\''
    )
    chain = as_shown(
        "dagster asset materialize -m deploy.definitions --partition 2026-03-30 "
        "--select 'key:\"homepage/training_set\"+'"
    )
    rankings = as_shown(
        "dagster asset materialize -m deploy.definitions --partition 2026-03-06 --select 'key:\"homepage/rankings\"'"
    )
    assert selected(tables) == {"features/feat_item", "homepage/examples", "features/serving_snapshot"}
    assert selected(chain) >= {"homepage/training_set", "homepage/student", "homepage/control"}
    assert selected(rankings) == {"homepage/rankings"}


def test_no_evaluation_day_reaches_training_tuning_or_the_teacher(settings: Settings) -> None:
    from ml.teacher.contract import load_contract

    trained_through = load_contract(present(settings.teacher)).trained_through
    for name in ("homepage", "radio"):
        champion = ReleaseStore(settings.artifacts_dir).champion(name)
        assert champion is not None and trained_through is not None
        manifest = champion.release.manifest
        assert max(manifest.train_days) < min(manifest.eval_days)
        assert max(manifest.eval_days) < present(settings.last_day)
        assert trained_through < min(manifest.eval_days)


def test_release_materialized_alone_after_a_failed_check_is_refused(settings: Settings, tmp_path: Path) -> None:
    from dagster import DagsterInstance

    from deploy.automation.jobs import release_chain
    from deploy.definitions import build_definitions
    from ml.stages.release import promote_candidate

    (tmp_path / "homepage.yaml").write_text(
        f"extends: {ROOT}/tests/surfaces/homepage.yaml\ngate: {{quality: {{ctr: {{min: 0.999}}}}}}\n"
        "training: {learning_rate: 0.004}\n",
        encoding="utf-8",
    )
    strict = Settings(home=settings.home, surfaces_dir=tmp_path, threads=1)
    surface = load_surfaces(strict)["homepage"]
    job = build_definitions(strict).resolve_implicit_global_asset_job_def()
    chain, day = release_chain(surface), str(settings.last_day)
    before = ReleaseStore(settings.artifacts_dir).pointer("homepage")
    with DagsterInstance.from_config(str(settings.dagster_home)) as instance:

        def steps_that_failed(keys: list[Any]) -> list[str | None]:
            result = job.execute_in_process(
                instance=instance, asset_selection=keys, partition_key=day, raise_on_error=False
            )
            return [e.step_key for e in result.all_events if e.event_type_value == "STEP_FAILURE"]

        assert steps_that_failed(chain) == ["homepage_gate"]
        assert steps_that_failed(chain[-1:]) == ["homepage__release"]
    with pytest.raises(PromotionRefused) as refused:
        promote_candidate(strict, surface, date.fromisoformat(day), by="test")
    assert refused.value.code == Refusal.VERDICT_FAILED
    assert ReleaseStore(settings.artifacts_dir).pointer("homepage") == before


def test_every_day_and_every_step_tells_what_it_cost(settings: Settings) -> None:
    from dagster import AssetKey, AssetRecordsFilter, DagsterInstance

    by_day = {
        "landing/listens": "landing.listens",
        "features/feat_user": "features.feat_user",
        "homepage/examples": "features.examples_homepage",
        "homepage/soft_labels": "ml.soft_labels_homepage",
    }
    with DagsterInstance.from_config(str(settings.dagster_home)) as instance, Lake(settings) as lake:

        def told(key: str) -> list[Any]:
            records = instance.fetch_materializations(AssetRecordsFilter(AssetKey(key.split("/"))), limit=50).records
            return [record.asset_materialization for record in records]

        for key, table in by_day.items():
            days = {m.partition: m.metadata for m in told(key)}
            assert len(days) >= 10 and all(m["dagster/partition_row_count"].value > 0 for m in days.values()), key
            files = lake.sql(
                "select data_file_size_bytes as n from ducklake_list_files('lake', ?, schema => ?)",
                table.split(".")[::-1],
            )
            assert sum(m["bytes"].value for m in days.values()) == sum(files["n"].to_pylist()), key
        for key in ("landing/listens", *(f"homepage/{name}" for name in ("training_set", "evaluation", "onnx"))):
            assert all(m.metadata["seconds"].value > 0 for m in told(key)), key


def test_a_check_over_a_range_is_known_of_each_of_its_days(settings: Settings) -> None:
    from dagster import AssetCheckKey, AssetKey, DagsterInstance

    checks = {"soft_labels": "soft_labels_are_sound", "examples": "examples_are_sound"}
    with DagsterInstance.from_config(str(settings.dagster_home)) as instance:
        for asset, check in checks.items():
            key = AssetCheckKey(AssetKey(["homepage", asset]), check)
            records = instance.event_log_storage.get_asset_check_execution_history(key, limit=100)
            known = {present(r.evaluation).partition for r in records if r.status.value == "SUCCEEDED"}
            assert known >= set(map(str, settings.days(settings.first_day, present(settings.last_day)))), asset


def test_nothing_is_written_outside_of_the_home(tiny_demo: Path) -> None:
    for name in ("target", "logs", ".user.yml", "dbt_packages"):
        assert not (ROOT / "dbt_project" / name).exists()
    assert not (ROOT / "great_expectations").exists() and not (ROOT / "gx").exists()
    assert (tiny_demo / "lake" / "catalog.sqlite").exists()


@pytest.mark.long
def test_the_demo_run_again_goes_on_with_the_same_champions(tiny_demo: Path, report: dict[str, Any]) -> None:
    (target,) = as_shown("make demo")
    make = ["make", f"VENV={sys.prefix}", f"--old-file={sys.prefix}/bin/.runtime", target, "PRESET=tiny"]
    subprocess.run(make, cwd=ROOT, env=home_environment(tiny_demo), timeout=600, check=True)
    again = json.loads((tiny_demo / "reports" / "demo.json").read_text(encoding="utf-8"))
    for name, surface in report["surfaces"].items():
        assert again["surfaces"][name]["release"]["id"] == surface["release"]["id"]
        for task, figures in surface["tasks"].items():
            for key in ("teacher", "control", "student", "delta", "delta_lo", "delta_hi", "n"):
                assert again["surfaces"][name]["tasks"][task][key] == figures[key], (name, task, key)
