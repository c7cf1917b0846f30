"""Reading the lake's files and comparing them with the hashes that they were written with."""

from datetime import date

from ml.foundation.lake import Lake
from ml.foundation.lake_files import Checked
from ml.foundation.settings import Settings


def verify(settings: Settings, *, night: date | None = None) -> Checked:
    """Check files of every state of the lake that is kept; those without a hash get one.

    Args:
        settings: The home.
        night: Check only the files whose turn it is: each file has one in ``verify_nights`` nights. Default all.

    Raises:
        DamagedError: A file is missing or was changed.
    """
    with Lake(settings) as lake:
        turn = night.toordinal() % settings.verify_nights if night else None
        named = lake.files.named(every=True)
        return lake.files.check([f for f in named if turn is None or f.id % settings.verify_nights == turn])
