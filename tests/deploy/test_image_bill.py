"""The bill of materials of an image is one by its schema, names what is in it, and says what it does not know."""

import json
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from deploy.image_bill import (
    TARGETS,
    base_image,
    bill_of_image,
    debian_packages,
    installed_packages,
    packages_of_lock,
)

STATUS = """\
Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.41-12+deb13u1
Description: GNU C Library
 Package: no field, this is a text

Package: g++
Status: install ok installed
Architecture: amd64
Version: 4:14.2.0-1

Package: gone
Status: deinstall ok config-files
Architecture: all
Version: 1
"""


def read(bill: bytes) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill.decode()) is None
    content = json.loads(bill)
    return content, {part["bom-ref"]: part for part in content["components"]}


def test_without_the_image_it_follows_from_lock_dockerfile_and_base_and_says_what_is_not_known() -> None:
    bills = [
        bill_of_image(target, base_image(), packages_of_lock(), [], "c0ffee") for target in TARGETS for _ in (0, 1)
    ]
    assert bills[0] == bills[1] and bills[1] != bills[2]
    content, parts = read(bills[-1])
    about = content["metadata"]["component"]
    assert (about["name"], about["type"]) == ("crossfade/server", "container")
    names = {part["name"] for part in parts.values() if part.get("purl", "").startswith("pkg:pypi/")}
    # Of the project, of an extra that the Dockerfile takes, of an extra of a package, and what no lock has.
    assert {"torch", "ray", "dagster-k8s", "uvloop", "uv"} <= names
    assert not {"pytest", "pywin32", "crossfade"} & names
    assert parts["base-image"]["version"] == "3.11-slim" and "hashes" not in parts["base-image"]
    assert content["compositions"] == [{"aggregate": "incomplete", "assemblies": ["base-image"]}]
    assert "not known" in json.dumps(about["properties"])


def test_in_the_image_it_lists_what_is_installed_and_the_digest_of_its_base(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "os-release").write_text('ID=debian\nVERSION_ID="13"\n')
    (tmp_path / "var/lib/dpkg").mkdir(parents=True)
    (tmp_path / "var/lib/dpkg/status").write_text(STATUS)
    debian, digest = debian_packages(tmp_path), "7" * 64
    bill = bill_of_image("server", f"python:3.11-slim@sha256:{digest}", installed_packages(), debian, "c0ffee")
    content, parts = read(bill)
    assert [ref for ref in parts if ref.startswith("pkg:deb/")] == [
        "pkg:deb/debian/g%2B%2B@4%3A14.2.0-1?arch=amd64&distro=debian-13",
        "pkg:deb/debian/libc6@2.41-12%2Bdeb13u1?arch=amd64&distro=debian-13",
    ]
    base = parts["base-image"]
    assert base["hashes"] == [{"alg": "SHA-256", "content": digest}]
    assert base["purl"].startswith(f"pkg:oci/python@sha256%3A{digest}?repository_url=docker.io%2Flibrary%2Fpython")
    assert f"pkg:pypi/numpy@{installed_packages()['numpy']}" in parts and "crossfade" not in installed_packages()
    assert content["compositions"] == [{"aggregate": "unknown", "assemblies": ["base-image"]}]
