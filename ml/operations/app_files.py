"""What is wrong in the files of an app's folder, found by reading them: no lake, no model and no SQL is run."""

from collections.abc import Iterator
from pathlib import Path

from ml.features.projects import app_projects, model_folders
from ml.features.tables import feature_tables
from ml.foundation.documents import is_object, load_yaml
from ml.foundation.names import near_name, nearest
from ml.foundation.settings import SETTINGS_FILE, Settings
from ml.landing.contract import APP_FILE, load_contract
from ml.landing.sources import SOURCES_FILE, load_sources
from ml.operations.findings import Examinations, Finding, Look, State, examine
from ml.surfaces.files import load_surfaces
from ml.surfaces.spec import Surface
from ml.teacher.teachers import faults_of_outputs, home_contracts, kinds_by_teacher

_NAMES = (
    SETTINGS_FILE,
    APP_FILE,
    SOURCES_FILE,
    "dbt_project.yml",
    "packages.yml",
    "surfaces",
    "models",
    "teacher",
    "techniques",
    "networks",
)
"""What is read of an app's folder."""


def teacher_outputs(settings: Settings) -> dict[str, dict[str, str]]:
    """Return {teacher: {output: its kind}} of a home; of a demo teacher that is not trained yet, what it will have.

    Raises:
        ContractError: A contract cannot be used.
    """
    if not settings.trains_demo_teacher or (settings.teacher and settings.teacher.exists()):
        return kinds_by_teacher(home_contracts(settings))
    assert settings.teacher_spec is not None
    content = load_yaml(settings.teacher_spec)
    outputs = content.get("outputs") if is_object(content) else None
    kinds = {name: str(of.get("kind")) for name, of in outputs.items() if is_object(of)} if is_object(outputs) else {}
    return {str(content.get("name") if is_object(content) else ""): kinds}


def faults_of_names(settings: Settings) -> Iterator[str]:
    """Say of every name in a surface's YAML that a feature table or the teacher should have, and has not."""
    surfaces, teachers = load_surfaces(settings), teacher_outputs(settings)
    tables = {table.name: [column.name for column in table.columns] for table in feature_tables(settings).values()}
    for surface in surfaces.values():
        file = surface_file(settings, surface)
        for name, item in surface.inputs.items():
            if item.source is None:
                continue
            table, column = item.source.split(".")
            if table not in tables:
                yield f"{file}: inputs.{name}: no feature table {table!r}{nearest(table, tables)}"
            elif column not in tables[table]:
                near = nearest(column, tables[table])
                yield f"{file}: inputs.{name}: feature table {table} has no column {column!r}{near}"
        yield from (f"{file}: {key}: {fault}" for key, fault in faults_of_outputs(surface, teachers))
        for name in sorted(surface.gate.soft_labels.teachers.keys() - teachers.keys()):
            yield f"{file}: gate.soft_labels.teachers: there is no teacher {name!r}{nearest(name, teachers)}"


def surface_file(settings: Settings, surface: Surface) -> Path:
    """Return the file that a surface was read from."""
    assert settings.surfaces_dir is not None
    own = settings.surfaces_dir / f"{surface.name}.yaml"
    if own.exists():
        return own
    named = (f for f in sorted(settings.surfaces_dir.glob("*.yaml")) if load_yaml(f).get("name") == surface.name)
    return next(named, own)


def faults_of_rankings(settings: Settings) -> Iterator[str]:
    """Say of every surface's rankings which candidates are not there, and which place cannot be written to."""
    surfaces = [surface for surface in load_surfaces(settings).values() if surface.rankings]
    if not surfaces:
        return
    from ml.landing.databases import fault_of_target
    from ml.stages.to_rank import RankingError, candidates_of

    sources = load_sources(settings, load_contract(settings))
    for surface in surfaces:
        rankings, file = surface.rankings, surface_file(settings, surface)
        assert rankings is not None
        if rankings.model is None:
            try:
                candidates_of(settings, rankings, settings.first_day)
            except RankingError as error:
                yield f"{file}: rankings.candidates: {error}"
        else:
            models = [path.stem for folder in model_folders(settings) for path in folder.rglob("*.sql")]
            if rankings.model not in models:
                told = f"no model {rankings.model!r}{nearest(rankings.model, models)}"
                yield f"{file}: rankings.candidates: {told}"
        if rankings.to.database and (fault := fault_of_target(sources, rankings.to.database)):
            yield f"{file}: rankings.to.database: {fault}"


def faults_of_incumbents(settings: Settings) -> Iterator[str]:
    """Say of every surface's file of its present ranker what is not there, or is not as the surface says."""
    for surface in load_surfaces(settings).values():
        if surface.incumbent is not None and surface.incumbent.onnx is not None:
            from ml.evaluation.incumbent import IncumbentError, incumbent_contract

            try:
                incumbent_contract(surface, settings.app)
            except IncumbentError as error:
                yield f"{surface_file(settings, surface)}: {error}"


def _app(settings: Settings) -> Look:
    assert settings.app is not None
    projects = app_projects(settings)
    if not projects:
        return State.BAD, f"{settings.app} holds no dbt_project.yml", "crossfade new surface writes one"
    odd = [
        f"{path}: not read; did you mean {near!r}?"
        for path in sorted(settings.app.iterdir())
        if path.name not in _NAMES and (near := near_name(path.name, _NAMES)) and path.suffix != ".py"
    ]
    if odd:
        return State.DOUBTFUL, "\n".join(odd), "rename it"
    return State.GOOD, f"{settings.app}, dbt projects {', '.join(projects)}"


def _surfaces(settings: Settings) -> Look:
    return State.GOOD, ", ".join(load_surfaces(settings))


def _landing_contract(settings: Settings) -> Look:
    contract = load_contract(settings)
    load_sources(settings, contract)
    return State.GOOD, f"{len(contract.tables)} tables in the contract"


def _features(settings: Settings) -> Look:
    return State.GOOD, ", ".join(feature_tables(settings))


def _teacher(settings: Settings) -> Look:
    if settings.trains_demo_teacher:
        return State.GOOD, f"trained here by {settings.teacher_spec}"
    lacking: list[str] = []
    told: list[str] = []
    for contract in home_contracts(settings).values():
        for name in contract.files:
            try:
                contract.file(name)
            except ValueError as error:
                lacking.append(str(error))
        told.append(f"{contract.name} {contract.version}, {len(contract.inputs)} inputs")
    if lacking:
        return State.BAD, "\n".join(lacking), "put it there, or mend the contract"
    return State.GOOD, "\n".join(told)


def _names(settings: Settings) -> Look:
    try:
        faults = list(faults_of_names(settings))
    except ValueError:
        return State.DOUBTFUL, "not looked at: a file that is named above cannot be read", "mend that first"
    if faults:
        return State.BAD, "\n".join(faults), "mend the keys that are named"
    return State.GOOD, "feature tables and teacher have what the surfaces name"


def _rankings(settings: Settings) -> Look:
    try:
        faults = list(faults_of_rankings(settings))
        declared = [f"{s.name}: {s.rankings}" for s in load_surfaces(settings).values() if s.rankings]
    except ValueError:
        return State.DOUBTFUL, "not looked at: a file that is named above cannot be read", "mend that first"
    if faults:
        return State.BAD, "\n".join(faults), "mend the keys that are named"
    return State.GOOD, ", ".join(declared) or "none declared"


def _incumbents(settings: Settings) -> Look:
    try:
        faults = list(faults_of_incumbents(settings))
        declared = [s for s in load_surfaces(settings).values() if s.incumbent]
    except ValueError:
        return State.DOUBTFUL, "not looked at: a file that is named above cannot be read", "mend that first"
    if faults:
        return State.BAD, "\n".join(faults), "mend the keys that are named, or put the file there"
    told = [f"{s.name}: {s.incumbent.version}" for s in declared if s.incumbent]
    return State.GOOD, ", ".join(told) or "none declared"


FILES: Examinations = {
    "app": _app,
    "surfaces": _surfaces,
    "landing contract": _landing_contract,
    "feature tables": _features,
    "teacher contract": _teacher,
    "names": _names,
    "rankings": _rankings,
    "present ranker": _incumbents,
}
"""Looks at an app's files."""
REMEDIES = dict.fromkeys(FILES, "mend the file that the message names")
"""What to do where a look raised."""


def examine_files(settings: Settings) -> Iterator[Finding]:
    """Yield what reading the app's files finds."""
    yield from examine(settings, FILES, REMEDIES)


def landing_fault(settings: Settings) -> str | None:
    """Say that the landing zone that somebody named is not there; one that a run fills need not be."""
    assert settings.landing_dir is not None
    named = settings.source == "files" and "landing_dir" in settings.model_fields_set
    if not named or settings.landing_dir.is_dir():
        return None
    return f"landing_dir: no folder at {settings.landing_dir}; make it, or name another with CROSSFADE_LANDING_DIR"


def require_files(settings: Settings) -> None:
    """Refuse an app with faults in its files, or whose landing zone is not where it is said to be.

    Raises:
        ValueError: Says all of them, one a line.
    """
    faults = [finding.told for finding in examine_files(settings) if finding.state is State.BAD]
    if missing := landing_fault(settings):
        faults.append(missing)
    if faults:
        raise ValueError("\n".join([*faults, f"`crossfade check {settings.app}` looks at all of the app"]))
