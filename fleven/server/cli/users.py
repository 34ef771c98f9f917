"""`fleven-server users`: who may log in to the page, tokens of programs, and the trail of changes. Thin.

Works on the register itself, and takes effect with the next request, whether the service runs or not.
"""

from __future__ import annotations

import re
import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleven.server.access.model import Action, Role
from fleven.server.cli.common import ConfigOption, JsonOption, Opened, console, note, now, opened, print_json, table
from fleven.server.errors import UsageError
from fleven_agent.common.formatting import span

if TYPE_CHECKING:
    from fleven.server.access.model import ApiToken, User

app = typer.Typer(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Say who may log in to the page, and which tokens programs use.",
)
token_app = typer.Typer(no_args_is_help=True, help="Tokens of programs: make, list, remove.")
app.add_typer(token_app, name="token")

DURATION = re.compile(r"(\d{1,5})(min|m|h|d)")
UNITS = {"m": timedelta(minutes=1), "min": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}


def duration(text: str) -> timedelta:
    """Return a length of time written as 30min, 24h or 7d.

    Raises:
        UsageError: it is none, or longer than ten years.
    """
    found = DURATION.fullmatch(text.strip())
    length = timedelta() if found is None else int(found[1]) * UNITS[found[2]]
    if not timedelta() < length <= timedelta(days=3650):
        raise UsageError(f"--expires: {text!r} is not a length of time", hint="for example 30min, 24h or 7d")
    return length


def complete_user(incomplete: str) -> list[str]:
    """Names of users for the shell's completion; nothing when the register cannot be read."""
    from fleven.server.access import store
    from fleven.server.errors import ServerError

    try:
        with opened() as server, server.store.read() as connection:
            return [user.name for user in store.all_users(connection) if user.name.startswith(incomplete)]
    except ServerError:
        return []


NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of the user.", autocompletion=complete_user)]
RoleOption = Annotated[Role, typer.Option("--role", "-r", help="What they may do.", case_sensitive=False)]
LinkOption = Annotated[str, typer.Option("--expires", help="How long the link works: 30min, 24h, 7d.")]


@app.callback()
def users_command(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Say who may log in to the page, and which tokens programs use.

    Roles: a viewer sees the page, figures and plots; an operator also fetches models; an admin may do everything.

    Example: fleven-server users add ana --role operator
    """
    if context.invoked_subcommand is None:
        list_command(config=config, as_json=as_json)


@app.command("list")
def list_command(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List all users with their roles.

    Example: fleven-server users list --json
    """
    from fleven.server.access import store

    at = now()
    with opened(config) as server, server.store.read() as connection:
        users = store.all_users(connection)
        sessions = store.session_counts(connection)
    if as_json:
        print_json({"users": [user_json(user, sessions.get(user.id, 0), at) for user in users]})
        return
    if not users:
        typer.echo("No user yet.")
        typer.echo("Add one: fleven-server users add NAME --role admin")
        return
    from fleven.server.formatting import ago

    shown = table("NAME", "ROLE", "STATE", "LAST LOGIN", "SESSIONS|right")
    for user in users:
        last = ago(user.last_login_at, at) if user.last_login_at is not None else "never"
        shown.add_row(user.name, user.role.value, user.state(at), last, str(sessions.get(user.id, 0)))
    console().print(shown)


def user_json(user: User, sessions: int, at: datetime) -> dict[str, Any]:
    """Return a user as JSON; nothing of it is a secret."""
    return {
        "name": user.name,
        "role": user.role.value,
        "state": user.state(at),
        "created_at": user.created_at,
        "created_by": user.created_by,
        "password_set_at": user.password_set_at,
        "last_login_at": user.last_login_at,
        "link_expires_at": user.link_expires_at,
        "sessions": sessions,
    }


@app.command("add")
def add_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="a-z, 0-9, '.', '_', '-'; at most 32.")],
    role: RoleOption = Role.VIEWER,
    expires: LinkOption = "24h",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add a user, and print a link with which they set their password, once.

    From the first user on, nobody sees the page without logging in.

    Example: fleven-server users add ana --role operator
    """
    from fleven.server.access import store
    from fleven.server.access.audit import local_actor

    at, length = now(), duration(expires)
    with opened(config, create=True) as server:
        with server.store.write() as connection:
            user = store.add_user(connection, name, role, local_actor().name, at)
            secret = store.make_link(connection, user, at + length)
            note(connection, Action.USER_ADDED, name, f"role {role.value}")
        print_link(server, name, role, secret, at + length, length, as_json=as_json)


@app.command("link")
def link_command(
    name: NameArgument, expires: LinkOption = "24h", config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Print a new link for a user who forgot the password or did not use the first link in time.

    The present password works until the new one is set.

    Example: fleven-server users link ana
    """
    from fleven.server.access import store

    at, length = now(), duration(expires)
    with opened(config) as server:
        with server.store.write() as connection:
            user = store.get_user(connection, name)
            if user.disabled:
                raise UsageError(f"{name} is disabled", hint=f"fleven-server users enable {name}", code="user-disabled")
            secret = store.make_link(connection, user, at + length)
            note(connection, Action.USER_LINK, name)
        print_link(server, name, user.role, secret, at + length, length, as_json=as_json)


def print_link(
    server: Opened, name: str, role: Role, secret: str, expires_at: datetime, length: timedelta, *, as_json: bool
) -> None:
    """Print the link of a user, and what to know about it."""
    from fleven.server.config.settings import split_address
    from fleven.server.http.server_names import own_address

    # An insecure server takes both on its port; the link is for the safe one.
    host = own_address(server.config, server.paths)
    link = f"https://{host}:{split_address(server.config.web.address)[1]}/password/{secret}"
    if as_json:
        print_json({"name": name, "role": role.value, "link": link, "expires_at": expires_at})
        return
    typer.echo(f"{name}: {role.value}. The link to set the password works once, for {span(length.total_seconds())}:")
    typer.echo("")
    # Not wrapped: it is to be copied.
    typer.echo(f"  {link}")
    typer.echo("")
    if server.config.insecure:
        sys.stderr.write("fleven-server: insecure: by http:// a password travels unencrypted\n")


@app.command("role")
def role_command(
    name: NameArgument,
    role: Annotated[Role, typer.Argument(metavar="ROLE", help="viewer, operator or admin.", case_sensitive=False)],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Change what a user may do, also in sessions that are open.

    Example: fleven-server users role ana admin
    """
    from fleven.server.access import store

    with opened(config) as server, server.store.write() as connection:
        user = store.get_user(connection, name)
        store.set_role(connection, user, role)
        detail = f"{user.role.value} to {role.value}"
        note(connection, Action.USER_ROLE, name, detail)
    say({"name": name, "role": role.value}, f"{name}: {role.value}", as_json=as_json)


@app.command("disable")
def disable_command(name: NameArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Shut a user out at once: sessions end, links become invalid, the password does not work.

    Example: fleven-server users disable ana
    """
    change_disabled(name, True, config, as_json=as_json)


@app.command("enable")
def enable_command(name: NameArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Let a user in again, with the same password as before.

    Example: fleven-server users enable ana
    """
    change_disabled(name, False, config, as_json=as_json)


def change_disabled(name: str, disabled: bool, config: ConfigOption, *, as_json: bool) -> None:
    """Shut a user out or let them in again."""
    from fleven.server.access import store

    with opened(config) as server, server.store.write() as connection:
        store.set_disabled(connection, store.get_user(connection, name), disabled, now())
        action = Action.USER_DISABLED if disabled else Action.USER_ENABLED
        note(connection, action, name)
    text = "disabled, and logged out everywhere" if disabled else "enabled"
    say({"name": name, "disabled": disabled}, f"{name}: {text}", as_json=as_json)


@app.command("logout")
def logout_command(name: NameArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """End all sessions of a user, who may log in again.

    Example: fleven-server users logout ana
    """
    from fleven.server.access import store

    with opened(config) as server, server.store.write() as connection:
        count = store.end_sessions(connection, store.get_user(connection, name).id, now())
        note(connection, Action.SESSIONS_ENDED, name, f"{count} sessions")
    say({"name": name, "ended": count}, f"{name}: {count} sessions ended", as_json=as_json)


@app.command("remove")
def remove_command(name: NameArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Remove a user with all sessions. The page stays closed even after the last user.

    Example: fleven-server users remove ana
    """
    from fleven.server.access import store

    with opened(config) as server, server.store.write() as connection:
        store.remove_user(connection, store.get_user(connection, name))
        note(connection, Action.USER_REMOVED, name)
    say({"name": name, "removed": True}, f"{name}: removed", as_json=as_json)


@app.command("log")
def log_command(
    about: Annotated[str, typer.Option("--about", help="Only about this user, node, schedule, run or token.")] = "",
    by: Annotated[str, typer.Option("--by", help="Only what this person did.")] = "",
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="At most this many.")] = 50,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show who changed what, when and from where; the newest first.

    Example: fleven-server users log --by ana
    """
    from fleven.server.access import audit

    with opened(config) as server, server.store.read() as connection:
        found = audit.entries(connection, limit, subject=about, actor=by)
    if as_json:
        names = audit.Entry.__dataclass_fields__
        print_json({"entries": [{name: getattr(entry, name) for name in names} for entry in found]})
        return
    if not found:
        typer.echo("Nothing was changed yet." if not about and not by else "Nothing matches.")
        return
    shown = table("WHEN", "WHO", "FROM", "WHAT", "OF WHICH")
    for entry in found:
        when = entry.at.astimezone().strftime("%d %b %H:%M:%S")
        subject = f"{entry.subject} {entry.detail}".strip()
        shown.add_row(when, entry.actor or "-", entry.address or entry.source, entry.action, subject)
    console().print(shown)


@token_app.command("add")
def token_add_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the token is for.")],
    role: RoleOption = Role.VIEWER,
    expires: Annotated[str, typer.Option("--expires", help="90d, 24h …; without it, it lasts until removed.")] = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a token for a program and print it, once. The role `metrics` reads /metrics and nothing else.

    Example: fleven-server users token add prometheus --role metrics
    """
    from fleven.server.access import store
    from fleven.server.access.audit import local_actor

    at = now()
    expires_at = at + duration(expires) if expires else None
    with opened(config, create=True) as server, server.store.write() as connection:
        text = store.add_token(connection, name, role, local_actor().name, at, expires_at)
        note(connection, Action.TOKEN_ADDED, name, f"role {role.value}")
    # On a line of its own, and alone on stdout: TOKEN=$(fleven-server users token add …).
    if not as_json:
        sys.stderr.write(f"{name}: {role.value}. Shown once; to be sent as `Authorization: Bearer …`:\n")
    say({"name": name, "role": role.value, "token": text, "expires_at": expires_at}, text, as_json=as_json)


@token_app.command("list")
def token_list_command(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List all tokens: their purpose, role, and when and from where they were last used.

    Example: fleven-server users token list
    """
    from fleven.server.access import store
    from fleven.server.formatting import ago

    at = now()
    with opened(config) as server, server.store.read() as connection:
        tokens = store.all_tokens(connection)
    if as_json:
        print_json({"tokens": [token_json(token) for token in tokens]})
        return
    if not tokens:
        typer.echo("No token yet.")
        return
    shown = table("NAME", "ROLE", "ENDS", "LAST USED", "FROM")
    for token in tokens:
        ends = "never" if token.expires_at is None else token.expires_at.astimezone().strftime("%d %b %Y")
        used = "never" if token.used_at is None else ago(token.used_at, at)
        shown.add_row(token.name, token.role.value, ends, used, token.used_from or "-")
    console().print(shown)


def token_json(token: ApiToken) -> dict[str, Any]:
    """Return a token as JSON, without its secret, which nobody has any more."""
    return {name: getattr(token, name) for name in token.__dataclass_fields__ if name != "id"}


@token_app.command("remove")
def token_remove_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the token.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove a token: it is refused from the next request on.

    Example: fleven-server users token remove prometheus
    """
    from fleven.server.access import store

    with opened(config) as server, server.store.write() as connection:
        store.remove_token(connection, name)
        note(connection, Action.TOKEN_REMOVED, name)
    say({"name": name, "removed": True}, f"{name}: removed", as_json=as_json)


def say(values: dict[str, Any], text: str, *, as_json: bool) -> None:
    """Print what was done, as JSON or as a line."""
    if as_json:
        print_json(values)
    else:
        typer.echo(text)
