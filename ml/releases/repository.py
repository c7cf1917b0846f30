"""The model repository: ``repository/<surface>/`` follows the champion in the Triton model repository layout."""

from collections.abc import Callable

from ml.export.files import CONFIG, MODEL
from ml.foundation.files import FileStore, sha256_bytes
from ml.releases.release import Champion


class ModelRepository:
    """What Triton, KServe, or any server of that layout reads."""

    def __init__(self, files: FileStore) -> None:
        self.files = files

    def sync(self, surface: str, champion_of: Callable[[str], Champion | None]) -> bool:
        """Bring a surface's folder in line with the pointer; safe to repeat and to interrupt.

        The new version's folder is complete before ``config.pbtxt`` names it; the version before it stays for servers
        that still read it, older ones go last. Where the champion moves meanwhile, it is followed.

        Args:
            surface: Name of the surface.
            champion_of: Returns what serves now, its files checked.

        Returns:
            Whether there is a champion.
        """
        folder = f"repository/{surface}"
        with self.files.lock(folder):
            champion = champion_of(surface)
            while champion is not None:
                self._publish_version(folder, champion)
                seen, champion = champion, champion_of(surface)
                if champion is not None and champion.pointer == seen.pointer:
                    return True
        return False

    def _publish_version(self, folder: str, champion: Champion) -> None:
        version, release = champion.pointer.version, champion.release
        model, config = f"{folder}/{version}/{MODEL}", f"{folder}/{CONFIG}"
        if not self._holds(model, release.manifest.onnx_sha256):
            self.files.replace(model, release.model.read_bytes())
        content = with_version((release.path / CONFIG).read_text(encoding="utf-8"), version).encode()
        if not self._holds(config, sha256_bytes(content)):
            self.files.replace(config, content)
        for name in self.files.names(folder):
            if name.isdigit() and int(name) not in (version, version - 1):
                self.files.remove_folder(f"{folder}/{name}")

    def _holds(self, key: str, sha256: str) -> bool:
        return self.files.exists(key) and sha256_bytes(self.files.read(key)) == sha256


def with_version(config: str, version: int) -> str:
    """Return a release's ``config.pbtxt`` with the one version that is to be served."""
    return f"{config.rstrip()}\nversion_policy: {{ specific: {{ versions: [{version}] }} }}\n"
