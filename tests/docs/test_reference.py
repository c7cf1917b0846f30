"""The reference: pages that the code writes are current, and pages written by hand name everything that there is."""

import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from fastapi.routing import APIRoute
from pydantic import BaseModel

from deploy.definitions import build_definitions
from deploy.serving.app import create_app
from ml.foundation.settings import PROJECT_ROOT, Settings
from ml.surfaces.files import load_surfaces
from ml.surfaces.spec import Surface
from ml.teacher.contract import Contract

REFERENCE = PROJECT_ROOT / "docs" / "reference"


def models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models in a type such as `dict[str, Input]` or `Endpoint | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from models(inner)


def keys(model: type[BaseModel]) -> Iterator[str]:
    """The keys of a YAML file, those of what is nested in it included."""
    for name, field in model.model_fields.items():
        yield field.alias or name
        for nested in models(field.annotation):
            yield from keys(nested)


def named(page: str) -> set[str]:
    """What a page names as code."""
    return set(re.findall(r"`([^`\n]+)`", (REFERENCE / page).read_text(encoding="utf-8")))


def test_generated_pages_are_those_of_the_code() -> None:
    for name, text in runpy.run_path(str(REFERENCE / "write.py"))["pages"]().items():
        assert (REFERENCE / name).read_text(encoding="utf-8") == text, "python docs/reference/write.py writes it again"


@pytest.mark.parametrize(("page", "model"), [("surface_yaml.md", Surface), ("teacher_contract.md", Contract)])
def test_every_key_of_a_yaml_file_is_on_its_page(page: str, model: type[BaseModel]) -> None:
    assert not set(keys(model)) - named(page)


def test_every_route_of_the_server_is_on_its_page(tmp_path: Path) -> None:
    app = create_app(Settings(home=tmp_path))
    routes = [route for route in app.routes if isinstance(route, APIRoute)]
    shown = {
        f"{method} {route.path.replace('/versions/{version}', '')}"
        for route in routes
        for method in route.methods or ()
    }
    assert shown and not shown - named("server_api.md")


def test_every_sensor_and_schedule_is_on_its_page(prepared_home: Path) -> None:
    settings = Settings(home=prepared_home)
    repository = build_definitions(settings).get_repository_def()
    names = {sensor.name for sensor in repository.sensor_defs} | {one.name for one in repository.schedule_defs}
    surfaces = "|".join(load_surfaces(settings))
    assert names
    assert not {re.sub(rf"^({surfaces})_", "<surface>_", name) for name in names} - named("automation.md")
