"""Reads surface files: one by its path, or all of an app.

``extends: <other.yaml>`` starts from another file; mappings are merged key by key and a null removes a key.
"""

from pathlib import Path

from pydantic import (
    ValidationError,
)

from ml.foundation.documents import Document, DocumentError, is_object, load_yaml, parse_yaml
from ml.foundation.names import faults_of
from ml.foundation.settings import Settings
from ml.surfaces.keys import SpecError
from ml.surfaces.own import own_files, with_code
from ml.surfaces.spec import Surface


def load_surface(path: Path, text: str | None = None, app: Path | None = None) -> Surface:
    """Read one surface file.

    Args:
        path: The file.
        text: What would stand in it; default what does.
        app: The app's folder, whose own techniques and networks it may name; default the one above the file's.

    Raises:
        SpecError: The file is missing, is no YAML mapping, or breaks a rule; names file and key.
    """
    try:
        app = app or path.resolve().parent.parent
        own = {"techniques": own_files(app, "techniques"), "networks": own_files(app, "networks")}
        return Surface.model_validate(with_code(_read(path, (), text), app), context=own)
    except ValidationError as error:
        raise SpecError(f"{path}: {faults_of(error, Surface, text.encode() if text else path.read_bytes())}") from error
    except ValueError as error:
        raise error if isinstance(error, SpecError) else SpecError(f"{path}: {error}") from error


def load_surfaces(settings: Settings) -> dict[str, Surface]:
    """Read every surface of ``settings.surfaces_dir`` by name, sorted.

    Raises:
        SpecError: There is none, or files cannot be used, or two are of one name; says all that is wrong.
    """
    folder = settings.surfaces_dir
    if folder is None or not folder.is_dir():
        raise SpecError(f"no folder of surfaces at {folder}")
    surfaces: dict[str, Surface] = {}
    faults: list[str] = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            surface = load_surface(path, app=settings.app)
        except SpecError as error:
            faults.append(str(error))
            continue
        if surface.name in surfaces:
            faults.append(f"{path}: name: another file of this folder has {surface.name!r} too")
        if surface.label_window_days > max(settings.late_horizon_days, 1):
            faults.append(
                f"{path}: label_window_days: {surface.label_window_days} is more than "
                f"CROSSFADE_LATE_HORIZON_DAYS={settings.late_horizon_days}: what lands late within the label window "
                f"would not count. Set late_horizon_days to {surface.label_window_days} or more"
            )
        surfaces[surface.name] = surface
    if faults:
        raise SpecError("\n".join(faults))
    if not surfaces:
        more = "".join(f"; {path.name} is not read, it ends in .yml" for path in sorted(folder.glob("*.yml")))
        raise SpecError(f"{folder} holds no surface (*.yaml){more}")
    return surfaces


def surface_file(settings: Settings, name: str) -> Path:
    """Return the file of a surface of ``settings.surfaces_dir``."""
    assert settings.surfaces_dir is not None
    return next(path for path in sorted(settings.surfaces_dir.glob("*.yaml")) if load_surface(path).name == name)


def _read(path: Path, seen: tuple[Path, ...], text: str | None = None) -> Document:
    path = path.resolve()
    if path in seen:
        raise SpecError(f"{path} extends itself")
    try:
        content = load_yaml(path) if text is None else parse_yaml(text)
    except DocumentError as error:
        raise SpecError(str(error)) from error
    except OSError as error:
        raise SpecError(f"{path}: {error}") from error
    if not is_object(content):
        raise SpecError(f"{path} holds no mapping")
    training = content.get("training")
    if is_object(training) and training.get("optimizer") == "adam":
        raise SpecError(
            f"{path}: training.optimizer: adam has ended: embeddings of ids are trained row by row, and rates "
            "and decays that were tuned for adam mislead it. Write `training: {}`, which takes all of them from the "
            f"number of rows, and look for better ones with `crossfade tune {path.stem}`"
        )
    base = content.pop("extends", None)
    if base is None:
        return content
    return _merge(_read(path.parent / base, (*seen, path)), content)


def _merge(base: Document, over: Document) -> Document:
    merged = dict(base)
    for key, value in over.items():
        if value is None:
            merged.pop(key, None)
        elif is_object(value) and is_object(merged.get(key)):
            merged[key] = _merge(merged[key], value)
        else:
            merged[key] = value
    return merged
