"""``crossfade keys``: the keys and identities that sign releases, verdicts and the champion log."""

from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.shared import TablesAsJson
from deploy.cli.terminal import note, say, show_table
from ml.foundation.settings import Settings
from ml.foundation.signing import SUFFIX, Keyring, UnusableKey, new_key

app = typer.Typer(no_args_is_help=True, help="Make and see the keys that sign releases, verdicts and the champion log.")


@app.command("new")
def keys_new(
    path: Annotated[Path, typer.Argument(help="File of the private key, outside of the instance directory.")],
    into: Annotated[
        Path | None, typer.Option(help="Folder of the public key; default CROSSFADE_TRUSTED_KEYS, else beside it.")
    ] = None,
) -> None:
    """Make a key: the private file for you alone, and its public one, by whose name people will know it."""
    settings, path = Settings(), path.absolute()
    if settings.home.resolve() in path.resolve().parents:
        raise UnusableKey(f"{path} lies in the instance directory {settings.home}, which is copied and shared")
    public = (into or settings.trusted_keys or path.parent).absolute() / f"{path.stem}{SUFFIX}"
    made = new_key(path, public)
    say(f"key {made}")
    say(f"private: {path} (mode 600; keep a copy where nobody else reads it)")
    say(f"public:  {public}")
    note(f"next: export CROSSFADE_SIGNING_KEY_FILE={path} CROSSFADE_TRUSTED_KEYS={public.parent} (docs/how-to/sign.md)")


@app.command("list")
def keys_list(as_json: TablesAsJson = False) -> None:
    """List the keys and identities that are trusted here, and say which key signs."""
    keys = Keyring.of(Settings())
    if not keys.required:
        say("no key is set: nothing is signed, and everything counts")
        return
    signer = keys.signer if keys.has_key else None
    rows = [
        {"name": name, "id": identity, "here": "signs" if identity == signer else "trusted"}
        for identity, (name, _) in keys.trusted.items()
    ]
    rows += [{"name": who.name, "id": who.issuer, "here": "trusted"} for who in keys.keyless.trusted]
    show_table("trusted keys and identities", rows)
