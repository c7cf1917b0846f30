import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.page import DOCS, page, scaled, slope, write
from benchmarks.record import HISTORY, Row, keep, read, rows
from benchmarks.scale import EXPOSURES, costs, scale_page

ROOT = HISTORY.parent.parent
DBT = "dbt build with tests, on the lake"


def history_of(values: dict[float, float], tmp_path: Path) -> Path:
    found = [Row(DBT, size, "exposures a day", value, "CPU s", 1.0, DBT, 1.0, 1.0) for size, value in values.items()]
    keep("features", found, tmp_path)
    return tmp_path


def test_the_pages_are_the_history() -> None:
    found = read()
    assert (DOCS / "benchmarks.md").read_text(encoding="utf-8") == page(found)
    assert (DOCS / "scale.md").read_text(encoding="utf-8") == scale_page(found)
    assert sorted(path.name for path in (DOCS / "benchmarks").glob("*.png")) == sorted(scaled(found))


def test_every_figure_of_the_history_names_its_reference_commit_and_machine() -> None:
    for stage, records in read().items():
        for record in records:
            assert record["stage"] == stage and record["commit"] and record["machine"]["load_average"]
            same = {(row["name"], row["size"], row["of"], row["unit"]) for row in record["rows"]}
            assert len(same) == len(record["rows"])
            for row in record["rows"]:
                assert (row["reference"], row["size"], row["of"], row["unit"]) in same
                assert row["low"] <= row["ratio"] <= row["high"]


def test_a_history_gives_the_same_pages_and_plots_each_time(tmp_path: Path) -> None:
    history = history_of({10**k: 2.0 + 1e-5 * 10**k for k in range(3, 8)}, tmp_path / "history")
    first, second = ({path.name: path.read_bytes() for path in write(history, tmp_path / name)} for name in ("a", "b"))
    assert first == second and len(first) == 3


def test_ratios_are_of_the_same_turn() -> None:
    found = rows({"a": [1.0, 10.0, 2.0], "b": [2.0, 30.0, 2.0]}, size=5, of="rows", unit="s", reference="a")
    assert [(row.value, row.ratio, row.low, row.high) for row in found] == [(2.0, 1.0, 1.0, 1.0), (2.0, 2.0, 1.0, 3.0)]


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
def test_the_slope_is_the_exponent_of_a_power(exponent: float) -> None:
    assert slope([(size, 3 * size**exponent) for size in (1, 3, 10, 30, 100)]) == pytest.approx(exponent)


def test_fixed_costs_are_not_carried_on(tmp_path: Path) -> None:
    found = read(history_of({1e5: 7.0 + 1.0, 1e6: 7.0 + 10.0}, tmp_path))
    (hours,) = costs(found).values()
    assert hours == pytest.approx(1e-5 * EXPOSURES / 3600)


def test_a_smaller_app_pays_the_same_for_an_exposure_and_its_disk_holds_the_window(tmp_path: Path) -> None:
    found = read(history_of({1e5: 7.0 + 1.0, 1e6: 7.0 + 10.0}, tmp_path))
    told = {cells[1].strip(): [cell.strip() for cell in cells[2:-1]] for cells in table_rows(scale_page(found))}
    assert told["exposures a day"] == ["300,000", "3,000,000", "30,000,000"]
    assert told["features of the day (`feat_*`)"] == ["10", "37", "307"]
    (disk,) = (values for name, values in told.items() if name.startswith("disk"))
    assert disk == ["4.54 GB", "45.4 GB", "454 GB"]


def table_rows(page: str) -> list[list[str]]:
    """The cells of the rows below the heading of smaller sizes."""
    return [row.split("|") for row in page.partition("## At smaller sizes")[2].splitlines() if row.startswith("| ")]


def test_a_record_is_one_line_of_json(tmp_path: Path) -> None:
    history = history_of({1.0: 2.0}, tmp_path)
    history_of({1.0: 3.0}, tmp_path)
    lines = (history / "features.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["rows"][0]["value"] for line in lines] == [2.0, 3.0]


def test_the_stages_are_listed() -> None:
    done = subprocess.run([sys.executable, "-m", "benchmarks"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {"definitions", "features", "labelling", "serving", "training"} <= {
        line.split()[0] for line in done.stdout.splitlines()
    }


def test_an_unknown_stage_is_an_error() -> None:
    command = [sys.executable, "-m", "benchmarks", "landings"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "STAGE" in done.stderr
