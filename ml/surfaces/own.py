"""An app's own techniques and networks: Python files of its folder, each known by its name and by its bytes.

They are the team's code, as its SQL is. A surface's YAML names one, and the hash of its bytes becomes part of the
surface: another edit is another surface, which is trained again. A file runs only if its bytes are those of the hash.
"""

import importlib.abc
import importlib.util
import inspect
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Literal, TypeVar

from ml.foundation.documents import Document, is_object
from ml.foundation.files import sha256_bytes, sha256_file
from ml.foundation.settings import Settings

Kind = Literal["techniques", "networks"]
"""What a file defines, and the name of the folder that it lies in."""

T = TypeVar("T")

_seen: dict[tuple[Kind, str, str], Path] = {}
"""Files that surfaces of this process name, by kind, name and hash."""


def own_files(app: Path, kind: Kind) -> dict[str, Path]:
    """Return {name: file} of an app's own techniques or networks, sorted; a file that begins with _ is none."""
    return {path.stem: path for path in sorted((app / kind).glob("*.py")) if not path.stem.startswith("_")}


def with_code(content: Document, app: Path) -> Document:
    """Return what a surface's YAML says, with the hash of each file of the app that it names.

    Raises:
        ValueError: The YAML says a hash itself.
    """
    found = dict(content)
    named: tuple[tuple[str, str, Kind], ...] = (
        ("distillation", "technique", "techniques"),
        ("network", "module", "networks"),
    )
    for part, key, kind in named:
        if not is_object(told := content.get(part)):
            continue
        if "code" in told:
            raise ValueError(f"{part}.code: is the hash of the app's file, and never written by hand; leave it out")
        name = told.get(key)
        file = own_files(app, kind).get(name) if isinstance(name, str) else None
        if file is not None:
            code = sha256_file(file)
            _seen[kind, file.stem, code] = file.resolve()
            found[part] = {**told, "code": code}
    return found


def own_file(kind: Kind, name: str, code: str) -> Path:
    """Return an app's file of these very bytes: the one that a surface was read with, or the one of this home's app.

    Raises:
        ValueError: There is none; says what to do.
    """
    if (kind, name, code) not in _seen and (app := Settings().app) is not None:
        _seen[kind, name, code] = (app / kind / f"{name}.py").resolve()
    file = _seen[kind, name, code]
    if not file.is_file() or sha256_file(file) != code:
        raise ValueError(
            f"{file} is not what it was (hash {code[:12]}): put that version of the app's folder back, or train again"
        )
    return file


class _Loader(importlib.abc.SourceLoader):
    """Runs bytes that were read once, and writes no compiled file beside them."""

    def __init__(self, path: Path, source: bytes) -> None:
        self._path, self._source = str(path), source

    def get_filename(self, fullname: str) -> str:
        return self._path

    def get_data(self, path: str | bytes) -> bytes:
        return self._source


@cache
def own_module(kind: Kind, name: str, code: str) -> ModuleType:
    """Import an app's file, once for a process and version of it.

    Raises:
        ValueError: The app has no such file, or it cannot be imported; names the file.
    """
    path = own_file(kind, name, code)
    source = path.read_bytes()
    if sha256_bytes(source) != code:
        raise ValueError(f"{path} was edited while it was read")
    full = f"crossfade_app.{kind}.{name}_{code[:12]}"
    loader = _Loader(path, source)
    spec = importlib.util.spec_from_loader(full, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[full] = module
    try:
        loader.exec_module(module)
    except Exception as error:  # whatever a file raises, it is told with the file's name
        del sys.modules[full]
        raise ValueError(f"{path}: cannot be imported: {type(error).__name__}: {error}") from error
    return module


def class_of(module: ModuleType, base: type[T]) -> type[T]:
    """Return the one subclass of ``base`` that a module defines.

    Raises:
        ValueError: It defines none, or several; names the file.
    """
    classes = (kind for _, kind in inspect.getmembers(module, inspect.isclass) if kind.__module__ == module.__name__)
    defined = [kind for kind in classes if issubclass(kind, base)]
    if len(defined) != 1:
        names = ", ".join(kind.__name__ for kind in defined) or "none"
        raise ValueError(f"{module.__file__}: expected one subclass of {base.__name__}, found {names}")
    return defined[0]
