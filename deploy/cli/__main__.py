"""``python -m deploy.cli`` is ``crossfade``."""

from deploy.cli.main import main

main()
