"""An app tried on one day in a lake of its own, which goes with it: teacher opened, SQL built, rows scored."""

from collections.abc import Collection, Iterator
from contextlib import suppress
from datetime import date
from pathlib import Path

from ml.evaluation.incumbent import IncumbentError, incumbent_predictions
from ml.features.build import build_arguments, run_dbt
from ml.foundation.lake import FEATURES, Lake
from ml.foundation.names import nearest
from ml.foundation.settings import Settings
from ml.landing.contract import LandingError
from ml.landing.ledger import landed_days
from ml.landing.load import init_tables, load_days
from ml.landing.readiness import days_in_zone, missing, strays
from ml.operations.app_files import surface_file
from ml.operations.findings import Examinations, Finding, Look, State, examine
from ml.stages.to_rank import candidates_of, faults_of_columns
from ml.surfaces.condition import condition
from ml.surfaces.files import load_surfaces
from ml.surfaces.own import Kind, own_files
from ml.surfaces.spec import Surface
from ml.teacher.columns import InputColumns
from ml.teacher.contract import Contract
from ml.teacher.labels import label_days
from ml.teacher.runtime import faults_of_models
from ml.teacher.teachers import contracts_of, home_contracts
from ml.teacher.vocabulary import vocabularies


def trial_settings(settings: Settings, home: Path) -> Settings:
    """Return the settings of a trial: the app's, with everything that is written below ``home``."""
    own = ("catalog_url", "lake_url", "dagster_url", "artifacts_url", "ray_address")
    return settings.model_copy(update={"home": home, **dict.fromkeys(own)})


def sample_day(settings: Settings) -> date | None:
    """Return the first complete day of the landing zone, or None where it has none.

    Tables of which later days hold only what changed, such as the items, are whole on the first.
    """
    return next((day for day in days_in_zone(settings) if not missing(settings, day)), None)


def examine_trial(settings: Settings, spoilt: Collection[str]) -> Iterator[Finding]:
    """Yield what trying the app on one day finds.

    Args:
        settings: Those of a trial.
        spoilt: Looks at the app's files that found something bad; what needs these files is not tried.
    """
    of_teacher = {"teacher", "teacher inputs", "sample labels"}
    left_out = set(of_teacher) if "teacher contract" in spoilt else set[str]()
    day = None
    if "rankings" in spoilt:
        left_out |= {"candidates to rank"}
    if "present ranker" in spoilt:
        left_out |= {"scores of the present ranker"}
    if {"app", "surfaces", "landing contract", "feature tables"} & set(spoilt):
        left_out |= TRIALS.keys() - {"teacher"}
    else:
        with suppress(LandingError):  # a source that cannot be asked is what the look at the sample day finds
            day = sample_day(settings)
    if day is None:
        left_out |= {"sample labels"}
    one = day or settings.first_day
    settings = settings.model_copy(update={"first_day": one, "last_day": one})
    yield from examine(settings, {name: TRIALS[name] for name in TRIALS if name not in left_out}, REMEDIES)


def _teacher(settings: Settings) -> Look:
    if settings.trains_demo_teacher:
        return State.GOOD, "the demo teacher is trained by a run"
    contracts = home_contracts(settings).values()
    if faults := list(faults_of_models(contracts, settings.teacher_providers)):
        return State.BAD, "\n".join(faults), REMEDIES["teacher"]
    told: list[str] = []
    for contract in contracts:
        if contract.scores:
            told.append(f"{contract.name} {contract.version}: its scores are landed in teacher_scores")
            continue
        golden = ", and its golden rows" if contract.golden else "; it has no golden rows"
        told.append(f"{contract.name} {contract.version} answers as its contract says{golden}")
    return State.GOOD, "\n".join(told)


def _landing(settings: Settings) -> Look:
    day = sample_day(settings)
    odd = strays(settings)
    if day is None:
        with Lake(settings) as lake:
            init_tables(lake)
        if odd:
            return State.DOUBTFUL, "\n".join(odd), "rename it, or move it out of the landing zone"
        told = f"{settings.landing_dir} has no complete day from {settings.first_day}; the SQL is tried on an empty one"
        return State.GOOD, told
    with Lake(settings) as lake:
        reports = load_days(lake, settings, [day], set(load_surfaces(settings)))
    rows, lost = sum(r.rows_loaded for r in reports), sum(r.rows_quarantined for r in reports)
    reasons = [f"{count:,} x {reason} in {r.table}" for r in reports for reason, count in r.reasons.items()]
    told = "\n".join([f"{day}: {rows:,} rows land, {lost:,} would go to quarantine", *reasons, *odd])
    if reasons or odd:
        return State.DOUBTFUL, told, "mend what is named, in the export or in sources.yaml"
    return State.GOOD, told


def _sql(settings: Settings) -> Look:
    surfaces = load_surfaces(settings)
    with Lake(settings) as lake:
        init_tables(lake)  # also where the sample day did not land
        landed = bool(landed_days(lake, "exposures"))
    arguments = build_arguments(settings, surfaces, ["base", "ranking"], settings.first_day, settings.first_day)
    if not landed:  # the tests of an empty table say nothing, and cost a third of the time
        arguments = ["run", *(word for word in arguments[1:] if word not in ("--exclude-resource-types", "unit_test"))]
    run_dbt(settings, arguments)
    with Lake(settings) as lake:
        rows = [f"examples_{name} {_rows(lake, f'{FEATURES}.examples_{name}'):,} rows" for name in surfaces]
    return State.GOOD, ", ".join(rows)


def _rows(lake: Lake, table: str) -> int:
    return int(lake.sql(f"select count(*) as n from lake.{table}")["n"][0].as_py())


def _columns(settings: Settings) -> Look:
    faults: list[str] = []
    with Lake(settings) as lake:
        for surface in load_surfaces(settings).values():
            table = f"{FEATURES}.examples_{surface.name}"
            if not lake.table_exists(table):
                return State.DOUBTFUL, "not looked at: the SQL above was not built", "mend that first"
            file = surface_file(settings, surface)
            faults += [f"{file}: {fault}" for fault in column_faults(surface, lake.columns(table))]
    if faults:
        return State.BAD, "\n".join(faults), "mend the YAML, or select the column in the SQL"
    return State.GOOD, "the examples have what the surfaces name"


def column_faults(surface: Surface, columns: Collection[str]) -> Iterator[str]:
    """Say of every column that a surface names and its examples lack, which is meant."""
    table = f"examples_{surface.name}"
    named = {f"inputs.{name}": name for name in surface.inputs}
    named |= {f"tasks.{name}.label": task.label for name, task in surface.tasks.items()}
    for key, name in named.items():
        if name not in columns:
            yield f"{key}: {table} has no column {name!r}{nearest(name, columns)}"
    for key, text in surface.slices.items():
        for name in sorted(condition(text).columns - set(columns)):
            yield f"slices.{key}: {table} has no column {name!r}{nearest(name, columns)}"


def _teacher_inputs(settings: Settings) -> Look:
    if settings.trains_demo_teacher and not (settings.teacher and settings.teacher.exists()):
        return State.GOOD, "not looked at: the demo teacher says what it takes when it is trained"
    told, over = [], []
    with Lake(settings) as lake:
        for surface in load_surfaces(settings).values():
            table = f"{FEATURES}.teacher_inputs_{surface.name}"
            if not lake.table_exists(table):
                return State.DOUBTFUL, "not looked at: the SQL above was not built", "mend that first"
            for teacher, contract in contracts_of(settings, surface).items():
                absent = _absent(contract, lake.columns(table), table)
                share = len(absent) / max(len(contract.inputs), 1)
                most = surface.gate.soft_labels.of(teacher).max_defaulted_share
                who = f"{surface.name}, {teacher}" if teacher else surface.name
                known = f"{who}: {len(contract.inputs) - len(absent)} of {len(contract.inputs)} inputs"
                told.append(f"{known}; {', '.join(absent)} take their defaults" if absent else known)
                if share > most:
                    over.append(f"{who}: {share:.0%} of the inputs take their default, max_defaulted_share {most:g}")
    if over:
        return (
            State.BAD,
            "\n".join(told + over),
            "select the inputs in teacher_inputs_<surface>.sql, or raise the bound",
        )
    return State.GOOD, "\n".join(told)


def _absent(contract: Contract, columns: dict[str, str], table: str) -> tuple[str, ...]:
    return InputColumns(contract.inputs, columns, table, vocabularies(contract)).absent


def _labels(settings: Settings) -> Look:
    if settings.trains_demo_teacher:
        return State.GOOD, "not looked at: the demo teacher is trained by a run"
    told: list[str] = []
    with Lake(settings) as lake:
        for name, surface in load_surfaces(settings).items():
            for teacher, contract in contracts_of(settings, surface).items():
                report = label_days(lake, settings, name, contract, [settings.first_day])
                rows = f"{report.rows:,} of {report.examples:,} rows"
                who = f"{name}, {teacher}" if teacher else name
                told.append(f"{who}: {rows}, {report.defaulted_share:.0%} of inputs defaulted")
    return State.GOOD, "\n".join(told)


def _rankings(settings: Settings) -> Look:
    told, faults = [], []
    with Lake(settings) as lake:
        for surface in load_surfaces(settings).values():
            if surface.rankings is None:
                continue
            if not lake.table_exists(f"{FEATURES}.examples_{surface.name}"):
                return State.DOUBTFUL, "not looked at: the SQL above was not built", "mend that first"
            candidates = candidates_of(settings, surface.rankings, settings.first_day)
            found = list(faults_of_columns(surface.inputs, candidates.columns(lake)))
            faults += [f"{candidates.name}: {fault}" for fault in found]
            if not found:
                told.append(f"{surface.name}: {candidates.count(lake):,} candidates on {settings.first_day}")
    if faults:
        return State.BAD, "\n".join(faults), "mend the query of candidates"
    return State.GOOD, ", ".join(told) or "none declared"


def _incumbents(settings: Settings) -> Look:
    told, faults = [], []
    with Lake(settings) as lake:
        for surface in load_surfaces(settings).values():
            if surface.incumbent is None or surface.incumbent.onnx is None:
                continue
            if not lake.table_exists(f"{FEATURES}.examples_{surface.name}"):
                return State.DOUBTFUL, "not looked at: the SQL above was not built", "mend that first"
            day = settings.first_day
            try:
                rows = incumbent_predictions(lake, surface, day, [day], settings.app).num_rows
                told.append(f"{surface.name}: {rows // 2:,} scores on {day}")
            except IncumbentError as error:
                faults.append(f"{surface_file(settings, surface)}: {error}")
    if faults:
        return State.BAD, "\n".join(faults), "mend the keys that are named, or export the ranker again"
    return State.GOOD, ", ".join(told) or "no file declared"


def _own_code(settings: Settings) -> Look:
    """Hold the app's own techniques and networks to what training, export and gate rely on."""
    told, faults, used = [], [], set[str]()
    for surface in load_surfaces(settings).values():
        own = {f"techniques/{surface.distillation.technique}.py"} if surface.distillation.code else set[str]()
        own |= {f"networks/{surface.network.module}.py"} if surface.network.module else set()
        used |= own
        if not own:
            continue
        from ml.export.own_code import contract_faults  # loads torch, which few apps need here

        found, names = list(contract_faults(surface)), " and ".join(sorted(own))
        faults += [f"{settings.app}: {names}, by {surface_file(settings, surface).name}: {fault}" for fault in found]
        told.append(f"{surface.name}: {names} keeps to what training, export and gate rely on")
    assert settings.app is not None
    kinds: tuple[Kind, ...] = ("techniques", "networks")
    there = {f"{kind}/{name}.py" for kind in kinds for name in own_files(settings.app, kind)}
    if faults:
        return State.BAD, "\n".join(faults), "mend the file (docs/how-to/add_a_technique.md)"
    told += [f"{name} is used by no surface and was not tried" for name in sorted(there - used)]
    return State.GOOD, "\n".join(told) or "none"


TRIALS: Examinations = {
    "teacher": _teacher,
    "sample day": _landing,
    "sql": _sql,
    "columns": _columns,
    "teacher inputs": _teacher_inputs,
    "sample labels": _labels,
    "candidates to rank": _rankings,
    "scores of the present ranker": _incumbents,
    "own code": _own_code,
}
"""What is tried, in the order in which one needs the other."""
REMEDIES = {
    "teacher": "mend the contract, or export the model as it says",
    "sample day": "mend what is named, in the export, contract.yaml or sources.yaml",
    "sql": "mend the model that the message names",
    "columns": "mend the YAML or the SQL",
    "teacher inputs": "mend teacher_inputs_<surface>.sql or the contract",
    "sample labels": "mend teacher_inputs_<surface>.sql or the contract",
    "candidates to rank": "mend the query of candidates, or the key rankings",
    "own code": "mend the file that the message names",
    "scores of the present ranker": "mend the key incumbent, or its file",
}
"""What to do where a trial raised."""
