"""`fleven-server nodes`: which nodes are in the fleet, how each is, and what the operator wants of it. Thin.

Works on the register itself, so it answers while the service is down too; what it changes travels to the node in the
answer to its next report.
"""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import Annotated

import typer

from fleven.server.access.model import Action
from fleven.server.cli.common import ConfigOption, JsonOption, console, note, now, opened, print_json
from fleven.server.cli.node_enrolment import add_commands
from fleven.server.nodes.model import NodeHealth

WATCH_SECONDS = 1.0
"""Between two looks whether a watched node has reported."""

app = typer.Typer(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="See the nodes of the fleet, label them, take them out of training and back.",
)


def complete_node(incomplete: str) -> list[str]:
    """Names of nodes for the shell's completion; nothing when the register cannot be read."""
    from fleven.server.errors import ServerError
    from fleven.server.nodes.registry import NodeRegistry

    try:
        with opened() as server:
            nodes = NodeRegistry.from_config(server.store, server.config).fleet(now())
    except ServerError:
        return []
    return [node.name for node in nodes if node.name.startswith(incomplete) and node.health != NodeHealth.UNMANAGED]


NameArgument = Annotated[str, typer.Argument(metavar="NODE", help="Name of the node.", autocompletion=complete_node)]
HoursOption = Annotated[float, typer.Option("--hours", min=0.1, max=24 * 366, help="How far back.")]


@app.callback()
def nodes_command(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """See the nodes of the fleet, label them, take them out of training and back.

    Example: fleven-server nodes

    Example: fleven-server nodes drain pi-2 --reason "in the workshop"
    """
    if context.invoked_subcommand is None:
        list_command(config=config, as_json=as_json)


@app.command("list")
def list_command(
    label: Annotated[str | None, typer.Option("--label", "-l", help="Only nodes with this label.")] = None,
    health: Annotated[
        NodeHealth | None, typer.Option("--state", help="Only nodes in this state.", case_sensitive=False)
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List all nodes: state, readings, what is wrong, and what to do about it.

    A node is ready only when its own report and Flower's list agree.

    Example: fleven-server nodes list --label fleet=north --json
    """
    from fleven.server.cli.node_tables import print_nodes
    from fleven.server.nodes.readiness import readiness
    from fleven.server.nodes.registry import NodeRegistry
    from fleven.server.schemas.nodes import node_answer

    at = now()
    with opened(config) as server:
        register = NodeRegistry.from_config(server.store, server.config)
        records = register.records(at)
        whole = readiness([record.node for record in records], server.config)
        nodes = [
            node_answer(record)
            for record in records
            if (label is None or label in record.node.labels) and (health is None or record.node.health is health)
        ]
        read_at = register.flower_list_read_at()
    if as_json:
        found = [node.model_dump(mode="json") for node in nodes]
        print_json({"server_time": at, "flower_list_read_at": read_at, "nodes": found})
    else:
        print_nodes(nodes, whole, at, filtered=label is not None or health is not None)


@app.command("show")
def show_command(
    name: NameArgument,
    hours: HoursOption = 24.0,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Ask the node to report often, and show each report until Ctrl-C.")
    ] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one node: identity, versions, conditions with hints, readings, and charts of load and temperature.

    An idle node reports every few minutes. With --watch it is asked to report now, and every 15 seconds from then on.

    Example: fleven-server nodes show pi-2 --watch
    """
    from fleven.server.cli.node_tables import print_node
    from fleven.server.nodes import history
    from fleven.server.nodes.registry import NodeRegistry
    from fleven.server.runs import store as run_store
    from fleven.server.schemas.nodes import node_detail_answer

    with opened(config) as server:
        register = NodeRegistry.from_config(server.store, server.config)
        shown_at: datetime | None = None
        first = True
        while True:
            at = now()
            node = node_detail_answer(register.record(name, at))
            if first or node.last_seen_at != shown_at:
                samples = history.history(server.store, name, at - timedelta(hours=hours))
                if as_json:
                    print_json(node.model_dump(mode="json"))
                else:
                    if watch and console().is_terminal:
                        console().clear()
                    current = [str(node.current_run["run_id"])] if node.current_run else []
                    with server.store.read() as connection:
                        run_ids = run_store.run_ids(connection, current)
                    print_node(node, samples, hours, at, run_ids)
                shown_at, first = node.last_seen_at, False
            if not watch:
                return
            register.note_look(name, at)
            try:
                time.sleep(WATCH_SECONDS)
            except KeyboardInterrupt:
                return


@app.command("history")
def history_command(
    name: NameArgument,
    hours: HoursOption = 24.0,
    tasks: Annotated[bool, typer.Option("--tasks", help="Show finished tasks and what they cost instead.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="At most this many events.")] = 50,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a node's past: hourly readings, changes of state, conditions that came and went; or its tasks.

    Example: fleven-server nodes history pi-2 --hours 72

    Example: fleven-server nodes history pi-2 --tasks --json
    """
    from fleven.server.cli.node_tables import print_history, print_tasks
    from fleven.server.nodes import history
    from fleven.server.nodes.registry import NodeRegistry

    at = now()
    since = at - timedelta(hours=hours)
    with opened(config) as server:
        NodeRegistry.from_config(server.store, server.config).record(name, at)
        samples = history.history(server.store, name, since)
        events = history.events(server.store, name, since, limit)
        done = [t for t in history.tasks(server.store, name=name, limit=limit) if t["reported_at"] >= since]
    if as_json:
        print_json({"name": name, "since": since, "samples": samples, "events": events, "tasks": done})
    elif tasks:
        print_tasks(name, done, at)
    else:
        print_history(name, samples, events, at)


@app.command("label")
def label_command(
    name: NameArgument,
    labels: Annotated[
        list[str] | None, typer.Argument(metavar="[LABEL]...", help="Labels to add; LABEL- removes one.")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add labels to a node, or remove them with a minus at the end. Schedules can ask for labels.

    Example: fleven-server nodes label pi-2 fleet=north diesel old-

    Example: fleven-server nodes label pi-2   (shows the labels)
    """
    from fleven.server.nodes.registry import NodeRegistry

    given = labels or []
    removed = [text.removesuffix("-") for text in given if text.endswith("-")]
    added = [text for text in given if not text.endswith("-")]
    with opened(config) as server:
        register = NodeRegistry.from_config(server.store, server.config)
        if given:
            after = register.label(name, add=added, remove=removed, now=now())
            with server.store.write() as connection:
                note(connection, Action.NODE_LABELLED, name, " ".join(given))
        else:
            after = sorted(register.record(name, now()).node.labels)
    if as_json:
        print_json({"name": name, "labels": after})
    else:
        typer.echo(f"{name}: {', '.join(after) or 'no labels'}")


@app.command("drain")
def drain_command(
    name: NameArgument,
    reason: Annotated[str, typer.Option("--reason", "-r", help="Why; shown wherever the node is shown.")] = "",
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a node out of training: it finishes its task, stops SuperNode and stays out, even after a reboot.

    Example: fleven-server nodes drain pi-2 --reason "in the workshop"
    """
    from fleven.server.nodes.registry import NodeRegistry

    with opened(config) as server:
        NodeRegistry.from_config(server.store, server.config).drain(name, reason, now())
        with server.store.write() as connection:
            note(connection, Action.NODE_DRAINED, name, reason)
    report_wish(name, "drain", as_json=as_json)


@app.command("undrain")
def undrain_command(name: NameArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Let a node train again, whether this server or somebody on the node drained it.

    Example: fleven-server nodes undrain pi-2
    """
    from fleven.server.nodes.registry import NodeRegistry

    with opened(config) as server:
        NodeRegistry.from_config(server.store, server.config).undrain(name, now())
        with server.store.write() as connection:
            note(connection, Action.NODE_UNDRAINED, name)
    report_wish(name, "undrain", as_json=as_json)


def report_wish(name: str, wish: str, *, as_json: bool) -> None:
    """Say what was noted and when it takes effect."""
    if as_json:
        print_json({"name": name, "wanted": wish})
    else:
        typer.echo(f"{name}: {wish} noted; the node learns of it with its next report")


@app.command("forget")
def forget_command(
    name: Annotated[
        str | None, typer.Argument(metavar="[NODE]", help="Name of the node.", autocompletion=complete_node)
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Even if it still reports.")] = False,
    stale: Annotated[bool, typer.Option("--stale", help="All that are offline and not enrolled, or revoked.")] = False,
    days: Annotated[float, typer.Option("--days", min=0, max=3660, help="With --stale: offline for this long.")] = 7.0,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remove a node and its history from the register. A node that reports again is registered as new.

    An enrolled car stays enrolled: `nodes revoke` ends that.

    Example: fleven-server nodes forget pi-9

    Example: fleven-server nodes forget --stale --days 30
    """
    from fleven.server.nodes.registry import NodeRegistry

    if stale == (name is not None):
        raise typer.BadParameter("name a node, or give --stale", param_hint="NODE")
    with opened(config) as server:
        register = NodeRegistry.from_config(server.store, server.config)
        if name is not None:
            register.forget(name, now(), force=force)
            gone = [name]
        else:
            gone = register.forget_stale(timedelta(days=days), now())
        with server.store.write() as connection:
            for one in gone:
                note(connection, Action.NODE_FORGOTTEN, one, "stale" if stale else "")
    if as_json:
        print_json({"name": name, "forgotten": True} if name is not None else {"forgotten": gone})
    else:
        for one in gone:
            typer.echo(f"{one}: forgotten, with its history")
        if not gone:
            typer.echo("Nothing to forget.")


add_commands(app)
