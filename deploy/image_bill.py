"""The bill of materials of an image, as CycloneDX: ``python -m deploy.image_bill server`` prints it.

In the image itself, with ``--here``, it lists the Python and Debian packages that are installed. Outside it follows
from lock, Dockerfile and base image, says what is not known, and needs no docker; ``deploy/images.sh`` takes the first
where docker has the image.
"""

import argparse
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import quote

from ml.foundation.code import git_commit, locked_packages
from ml.foundation.settings import PROJECT_ROOT
from ml.releases.bill_of_materials import Component, document, libraries, package_name, properties

TARGETS = ("code-location", "server")
_UNKNOWN = "not known: this bill was made without the image"


def bill_of_image(target: str, base: str, python: Mapping[str, str], debian: list[Component], commit: str) -> bytes:
    """Return the bill of materials of an image.

    Args:
        target: Which of ``TARGETS``.
        base: Its base image, ``name:tag`` or ``name:tag@sha256:...``.
        python: Its Python packages: {name: version}.
        debian: Its Debian packages; none where they are not known.
        commit: Commit of the checkout that it is built from.
    """
    version = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    about = {
        "type": "container",
        "bom-ref": "image",
        "name": f"crossfade/{target}",
        "version": version,
        "properties": properties({"git_commit": commit, "debian_packages": len(debian) or _UNKNOWN}),
    }
    parts = [_base(base), *libraries(python), *debian]
    known = {"aggregate": "unknown" if debian else "incomplete", "assemblies": ["base-image"]}
    return document(f"image/{target}/{version}/{commit}", about, parts, {}, compositions=[known])


def base_image() -> str:
    """Return the base image of ``deploy/images.env``, with its digest where ``make digests`` has looked it up."""
    named = (PROJECT_ROOT / "deploy" / "images.env").read_text(encoding="utf-8")
    return re.findall(r"^PYTHON_IMAGE=(.+)$", named, re.M)[0]


def packages_of_lock() -> dict[str, str]:
    """Return the Python packages that the Dockerfile installs on Linux, as it stands: by the lock, and uv itself."""
    dockerfile = (PROJECT_ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8")
    arguments = dict(re.findall(r'^ARG (\w+)="?([^"\n]+)"?$', dockerfile, re.M))
    python = re.findall(r":(\d+\.\d+)", base_image())[0]
    machine = {
        **{"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": "x86_64"},
        **{"python_version": python, "python_full_version": f"{python}.99", "implementation_name": "cpython"},
    }
    return {"uv": arguments["UV_VERSION"], **locked_packages(tuple(arguments["EXTRAS"].split()), (*machine.items(),))}


def installed_packages() -> dict[str, str]:
    """Return the Python packages that are installed here, Crossfade itself aside."""
    found = {package_name(one.metadata["Name"]): one.version for one in importlib.metadata.distributions()}
    return {name: version for name, version in found.items() if name != "crossfade"}


def debian_packages(root: Path = Path("/")) -> list[Component]:
    """Return the Debian packages that are installed below a root, by name and architecture."""
    release = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', (root / "etc/os-release").read_text(encoding="utf-8"), re.M))
    distribution = f"{release['ID']}-{release.get('VERSION_ID', 'sid')}"
    return sorted(_installed(root / "var/lib/dpkg/status", release["ID"], distribution), key=lambda one: one["bom-ref"])


def _installed(status: Path, vendor: str, distribution: str) -> Iterator[Component]:
    for paragraph in re.split(r"\n\n+", status.read_text(encoding="utf-8")):
        field = dict(re.findall(r"^([A-Z][\w-]*): (.*)$", paragraph, re.M))
        if field.get("Status", "").endswith(" installed"):
            name, version, architecture = field["Package"], field["Version"], field["Architecture"]
            where = f"arch={architecture}&distro={distribution}"
            purl = f"pkg:deb/{vendor}/{quote(name, safe='')}@{quote(version, safe='.-~')}?{where}"
            yield {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def _base(image: str) -> Component:
    tagged, _, digest = image.partition("@")
    name, _, tag = tagged.rpartition(":")
    found: Component = {"type": "container", "bom-ref": "base-image", "name": name, "version": tag}
    if not digest:
        return {**found, "properties": properties({"digest": "not known: make digests looks it up"})}
    where = quote(f"docker.io/library/{name}" if "/" not in name else name, safe="")
    return {
        **found,
        "hashes": [{"alg": "SHA-256", "content": digest.removeprefix("sha256:")}],
        "purl": f"pkg:oci/{name.rpartition('/')[2]}@{quote(digest, safe='')}?repository_url={where}&tag={tag}",
    }


def main(arguments: list[str]) -> None:
    """Print the bill of materials of an image."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--here", action="store_true", help="this is the image: list what is installed")
    parser.add_argument("--commit", help="commit that it was built from; default is the checkout's")
    asked = parser.parse_args(arguments)
    python, debian = (installed_packages(), debian_packages()) if asked.here else (packages_of_lock(), [])
    bill = bill_of_image(asked.target, base_image(), python, debian, asked.commit or git_commit() or "unknown")
    sys.stdout.write(bill.decode())


if __name__ == "__main__":
    main(sys.argv[1:])
