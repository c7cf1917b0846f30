"""The command ``crossfade``: what is not a materialization. A subject is a file; each starts light."""

import os

import typer

from deploy.cli import (
    alert,
    check,
    columns,
    dashboard,
    demo,
    develop,
    doctor,
    experiment,
    home,
    inputs,
    keys,
    landing,
    lineage,
    new,
    off_policy,
    operating_curve,
    plan,
    release,
    serve,
    show,
    students,
    study,
    upgrade,
)
from deploy.cli.terminal import fail

COMMANDS = {
    "init": home.init,
    "check": check.check,
    "plan": plan.plan,
    "develop": develop.develop,
    "columns": columns.columns,
    "doctor": doctor.doctor,
    "alert": alert.alert,
    "watch": alert.watch,
    "quarantine": landing.quarantine,
    "tidy": home.tidy,
    "verify": home.verify,
    "forget": home.forget,
    "backup": home.backup,
    "restore": home.restore,
    "upgrade": upgrade.upgrade,
    "settings": home.settings,
    "demo": demo.demo,
    "simulate": inputs.simulate,
    "kuairand": inputs.kuairand,
    "ui": serve.ui,
    "serve": serve.serve,
    "dashboard": dashboard.dashboard,
    "tune": students.tune,
    "diagnose": students.diagnose_surface,
    "lineage": lineage.lineage,
    "open": show.open_page,
    "operating-curve": operating_curve.operating_curve,
    "off-policy": off_policy.off_policy,
    "reproduce": lineage.reproduce_release,
}
"""In the order of `crossfade --help`."""
SUBJECTS = {"release": release.app, "keys": keys.app, "new": new.app, "study": study.app, "experiment": experiment.app}
"""Those that have commands of their own, listed after them."""

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Crossfade: distil a frozen teacher from another domain into small rankers, and release what passes its gate.",
)

for _name, _command in COMMANDS.items():
    app.command(_name)(_command)
for _name, _subject in SUBJECTS.items():
    app.add_typer(_subject, name=_name)


def main() -> None:
    """Run the command line; an expected error is one line with its value, not a traceback."""
    try:
        app()
    except (ValueError, RuntimeError, FileNotFoundError) as error:
        if os.environ.get("CROSSFADE_TRACEBACK"):
            raise
        fail(str(error))
