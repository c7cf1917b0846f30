"""The raw files of a home whose events Crossfade itself provides: the simulator's or KuaiRand's."""

from ml.foundation.progress import Progress, silent
from ml.foundation.settings import Settings


def write_raw_files(settings: Settings, progress: Progress = silent) -> None:
    """Fill the landing zone from the source of ``settings``; an app's own files are there already."""
    match settings.source:
        case "kuairand":
            from ml.lab.kuairand import write_landing

            write_landing(settings, progress)
        case "simulator":
            from ml.lab.simulator.write import write_landing

            write_landing(settings, progress=progress)
        case "files":
            pass
