"""`fleven-server backup` and `restore`: the whole server in one sealed file, and back. Thin: parses, asks, prints."""

from __future__ import annotations

import getpass
import json
import os
import socket
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fleven.server.access.model import Action
from fleven.server.cli.common import ConfigOption, JsonOption, note, now, opened, print_json
from fleven.server.errors import ConfigurationError, ServerError, TemporaryError, UsageError

if TYPE_CHECKING:
    from fleven.server.backup.making import Made
    from fleven.server.backup.restoring import Restored
    from fleven.server.backup.sealing import Seal
    from fleven.server.config.paths import Paths

backup_app = typer.Typer(context_settings={"help_option_names": ["-h", "--help"]})
restore_app = typer.Typer(context_settings={"help_option_names": ["-h", "--help"]})
CREDENTIAL = "backup-passphrase"
"""Name of the credential that a unit of systemd may give (`LoadCredential=`)."""
LARGEST_SMALL_FILE_BYTES = 100_000
PassphraseOption = Annotated[
    Path | None,
    typer.Option("--passphrase-file", metavar="FILE", help="Read the passphrase from the first line of a file."),
]


@backup_app.command()
def backup_command(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="File to write; default: a name with host and time.")
    ] = None,
    recipient: Annotated[
        list[str] | None,
        typer.Option("--recipient", metavar="KEY", help="Seal it for this public key of age or SSH; may be repeated."),
    ] = None,
    gpg: Annotated[
        list[str] | None, typer.Option("--gpg", metavar="KEY", help="Seal it for this key of gpg; may be repeated.")
    ] = None,
    passphrase_file: PassphraseOption = None,
    without_keys: Annotated[
        bool, typer.Option("--without-keys", help="Not sealed, and without keys: no car trusts such a server.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Save the server in one sealed file: keys, enrolments, users, schedules, register, models, server.toml.

    Without --recipient or --gpg it is sealed with a passphrase: from --passphrase-file, from the credential
    backup-passphrase of a unit, or asked for. The server may be running. Results and checkpoints of runs are not in it.

    Example: sudo fleven-server backup

    Example: sudo fleven-server backup --recipient age1… /mnt/fleet.age
    """
    from fleven.server.backup.making import make
    from fleven.server.config.loader import load
    from fleven.server.database.facts import KEYS_BACKUP_FACT

    at = now()
    if sum((bool(recipient), bool(gpg), passphrase_file is not None, without_keys)) > 1:
        raise UsageError("--recipient, --gpg, --passphrase-file and --without-keys exclude each other")
    with opened(config) as server:
        target = (file or default_file(recipient, gpg, without_keys=without_keys)).absolute()
        if target.is_dir():
            target /= default_file(recipient, gpg, without_keys=without_keys)
        if os.path.lexists(target):
            raise UsageError(f"{target}: exists already", hint="choose another name", code="file-exists")
        seal = chosen_seal(recipient or [], gpg or [], passphrase_file, without_keys=without_keys)
        made = make(load(config), server.paths, target, seal, at, with_keys=not without_keys)
        with server.store.write() as connection:
            detail = f"sealed: {made.form}" if made.manifest.with_keys else "without keys"
            note(connection, Action.BACKUP_MADE, str(target), detail)
        if made.manifest.with_keys:
            server.store.set_fact(KEYS_BACKUP_FACT, {"file": str(target), "bytes": made.size}, at)
    print_made(made, as_json=as_json)


@restore_app.command()
def restore_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A backup, or a nightly copy of the register.")],
    identity: Annotated[
        list[Path] | None,
        typer.Option(
            "--identity", metavar="FILE", help="File with the private key (age or SSH) that it is sealed for."
        ),
    ] = None,
    passphrase_file: PassphraseOption = None,
    keep_configuration: Annotated[
        bool, typer.Option("--keep-configuration", help="Leave server.toml of this machine as it is.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Even if this server has a register or keys; they are set aside.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Restore a backup on this machine, replacing what is here. The server must not be running.

    The authority that the cars trust makes a new certificate for this machine's names and addresses.

    Example: sudo fleven-server restore fleven-pc-20261128.age
    """
    from fleven.server.backup.restoring import restore
    from fleven.server.backup.sealing import Opener
    from fleven.server.config.loader import config_file
    from fleven.server.config.paths import Paths
    from fleven.server.database import open_store
    from fleven.server.database.serve_lock import only_one

    at, paths = now(), Paths.from_environment()
    if not file.is_file():
        raise UsageError(f"{file}: is not a file", code="file-missing")
    identities = tuple(small_file(one) for one in identity or [])
    opener = Opener(lambda: asked_passphrase(passphrase_file, twice=False), identities)
    if not paths.state.is_dir():
        paths.state.mkdir(parents=True, mode=0o750)
    check_superlink_stopped(paths)
    with only_one(paths.state):
        done = restore(
            file, opener, paths, config_file(config)[0], at, force=force, keep_configuration=keep_configuration
        )
        problems = make_ready(config, paths, done)
        # Not by the configuration: it may have problems on this machine.
        with closing(open_store(paths.register)) as store, store.write() as connection:
            note(connection, Action.BACKUP_RESTORED, str(file.absolute()))
    print_restored(done, problems, reachable_now(paths), as_json=as_json)


def default_file(recipient: list[str] | None, gpg: list[str] | None, *, without_keys: bool) -> Path:
    """Return the name of a backup whose name was not given."""
    ending = "tar.gz" if without_keys else "gpg" if gpg else "age" if recipient else "backup"
    return Path(f"fleven-{socket.gethostname()}-{now():%Y%m%d-%H%M%S}.{ending}")


def chosen_seal(recipients: list[str], gpg: list[str], passphrase_file: Path | None, *, without_keys: bool) -> Seal:
    """Return for whom a backup is sealed.

    Raises:
        UsageError: a recipient is none, or there is no good passphrase.
    """
    from fleven.server.backup.sealing import SHORTEST_PASSPHRASE, Seal, parsed_recipient

    if without_keys:
        return Seal()
    if recipients or gpg:
        for one in recipients:
            parsed_recipient(one)
        return Seal(recipients=tuple(recipients), gpg=tuple(gpg))
    passphrase = asked_passphrase(passphrase_file, twice=True)
    if len(passphrase) < SHORTEST_PASSPHRASE:
        text = (
            f"a passphrase needs {SHORTEST_PASSPHRASE} characters or more: anybody who has the file can keep guessing"
        )
        raise UsageError(text, code="passphrase-short")
    return Seal(passphrase=passphrase)


def asked_passphrase(file: Path | None, *, twice: bool) -> str:
    """Return the passphrase: from a file, from a credential of the unit, or asked for at the terminal.

    Raises:
        UsageError: there is none, or it was given differently the second time.
    """
    if file is not None:
        return first_line(small_file(file))
    credential = Path(os.environ.get("CREDENTIALS_DIRECTORY") or "/nonexistent", CREDENTIAL)
    if credential.is_file():
        return first_line(small_file(credential))
    if not sys.stdin.isatty():
        hint = "--passphrase-file FILE, --recipient KEY, or --without-keys" if twice else "--passphrase-file FILE"
        raise UsageError("there is no terminal to ask for the passphrase", hint=hint, code="passphrase-missing")
    passphrase = getpass.getpass("Passphrase of the backup: ", sys.stderr)
    if twice and getpass.getpass("Repeat the passphrase: ", sys.stderr) != passphrase:
        raise UsageError("the two differ", code="passphrase-missing")
    return passphrase


def small_file(file: Path) -> bytes:
    """Return the content of a file of a passphrase or key.

    Raises:
        UsageError: it cannot be read, or is too large for one.
    """
    try:
        with file.open("rb") as stream:
            content = stream.read(LARGEST_SMALL_FILE_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{file}: {(error.strerror or str(error)).lower()}", code="file-missing") from error
    if len(content) > LARGEST_SMALL_FILE_BYTES:
        raise UsageError(f"{file}: is too large", code="file-too-large")
    return content


def first_line(content: bytes) -> str:
    """Return the first line of a file, without its end.

    Raises:
        UsageError: it is empty, or no text.
    """
    try:
        line = content.decode("utf-8").split("\n", 1)[0].rstrip("\r")
    except UnicodeDecodeError:
        line = ""
    if not line:
        raise UsageError("the first line of the passphrase file is empty", code="passphrase-missing")
    return line


def check_superlink_stopped(paths: Paths) -> None:
    """Make sure that no SuperLink works on the folder; the server itself is kept away by its lock.

    Raises:
        TemporaryError: one does.
    """
    try:
        pid = int(json.loads(paths.superlink_record.read_bytes())["pid"])
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError, KeyError, TypeError):
        return
    if b"superlink" in words:
        raise TemporaryError(
            f"the SuperLink is using {paths.state}",
            hint="systemctl stop fleven-server fleven-superlink",
            code="already-running",
        )


def make_ready(config: Path | None, paths: Paths, done: Restored) -> list[str]:
    """Bring the certificate to this machine's names; returns what keeps the server from starting."""
    from fleven.server.service_user import load_for_service
    from fleven.server.trust.upkeep import bring_up_to_date

    try:
        loaded = load_for_service(config, paths)
        if done.manifest is not None and done.manifest.with_keys:
            bring_up_to_date(loaded.config, paths, now())
    except ConfigurationError as error:
        return list(error.problems or error.lines())
    except ServerError as error:
        return error.lines()
    return []


def reachable_now(paths: Paths) -> list[str]:
    """Return by which names and addresses cars may reach this machine."""
    from fleven.server.trust.files import trust_files
    from fleven.server.trust.names import machine_names

    return machine_names().reachable(trust_files(paths).given_names())


def print_made(made: Made, *, as_json: bool) -> None:
    """Print what was made, and how it is opened."""
    manifest = made.manifest
    if as_json:
        answer = {"file": made.file, "bytes": made.size, "sealed": made.form, "with_keys": manifest.with_keys}
        print_json(answer | {"cars": manifest.cars, "left_out": manifest.left_out})
        return
    keys = f"with the keys that {manifest.cars} cars trust" if manifest.with_keys else "without keys, unsealed"
    typer.echo(f"{made.file}: {made.size / 1e6:.1f} MB, {keys}; read back")
    for line in manifest.left_out:
        typer.echo(f"  not in it: {line}")
    if manifest.with_keys:
        typer.echo("Keep it and what opens it on another machine; there: fleven-server restore FILE")


def print_restored(done: Restored, problems: list[str], here: list[str], *, as_json: bool) -> None:
    """Print what was put in place, and what is to be done by hand."""
    steps = next_steps(done, problems, here)
    if as_json:
        manifest = done.manifest
        print_json(
            {
                "put": [str(path) for path in done.put],
                "kept_in": done.kept_in,
                "created_at": manifest.created_at if manifest else None,
                "cars": manifest.cars if manifest else None,
                "with_keys": manifest.with_keys if manifest else False,
                "not_put": list(done.not_put),
                "problems": problems,
                "next_steps": steps,
            }
        )
        return
    for path in done.put:
        typer.echo(f"restored {path}")
    for line in done.not_put:
        typer.echo(f"not restored: {line}")
    if done.kept_in is not None:
        typer.echo(f"what was here before: {done.kept_in}")
    for problem in problems:
        typer.echo(f"! {problem}", err=True)
    typer.echo("Next:")
    for number, step in enumerate(steps, 1):
        typer.echo(f"  {number}. {step}")


def next_steps(done: Restored, problems: list[str], here: list[str]) -> list[str]:
    """Return what is to be done by hand after a restore. Pure."""
    steps = ["correct the problems above, then: fleven-server config check"] if problems else []
    steps.append("systemctl start fleven-superlink fleven-server (or start both programs)")
    manifest = done.manifest
    if manifest is None or not manifest.with_keys:
        steps.append("this backup has no keys: each car that has joined must join again (fleven-server nodes invite)")
    elif missing := [name for name in manifest.reached_at if name not in here]:
        had = ", ".join(missing[:5])
        new = here[0] if here else "this machine's address"
        steps.append(
            f"cars that know only {had} will not find this machine: give it that name or address, or on each car set "
            f'superlink = "{new}:{manifest.fleet_port}" and report-url = "https://{new}:{manifest.web_port}" in '
            "/etc/fleven/node.toml, then systemctl restart fleven-agent; no car has to join again"
        )
    if manifest is not None:
        steps.append(
            f"what was done after {manifest.created_at:%Y-%m-%d %H:%M} UTC is not known here: revoke again what was "
            "revoked since; a car that has joined, or changed its key, since then must join again"
        )
    return steps
