"""The options that describe a schedule, shared by `schedule add` and `edit`, and how they become a `ScheduleSpec`.

All problems of all options are reported at once, each with the option's name.
"""

import inspect
import itertools
import json
import shlex
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from fleven.server.errors import UsageError

WHEN, CONDITIONS, RUN, RULES = "When", "Conditions of a start", "What runs", "Rules"


def option(*names: str, text: str, panel: str, metavar: str | None = None) -> Any:
    """Return a typer option of one of the panels."""
    return typer.Option(*names, help=text, rich_help_panel=panel, metavar=metavar)


def spec_options(
    cron: Annotated[
        str | None, option("--cron", text="Cron expression, e.g. '0 2 * * *'.", panel=WHEN, metavar="EXPR")
    ] = None,
    timezone: Annotated[
        str | None, option("--timezone", text="Time zone of --cron. (default: UTC)", panel=WHEN, metavar="ZONE")
    ] = None,
    every: Annotated[
        str | None, option("--every", text="A fixed rhythm, e.g. 6h.", panel=WHEN, metavar="DURATION")
    ] = None,
    start: Annotated[
        str | None, option("--start", text="Where --every counts from.", panel=WHEN, metavar="TIME")
    ] = None,
    at: Annotated[
        str | None, option("--at", text="Once, e.g. 2026-12-24T02:00+01:00.", panel=WHEN, metavar="TIME")
    ] = None,
    manual: Annotated[bool | None, option("--manual", text="Only with `schedule run` or --after.", panel=WHEN)] = None,
    after: Annotated[
        str | None, option("--after", text="Whenever this schedule has succeeded.", panel=WHEN, metavar="NAME")
    ] = None,
    min_nodes: Annotated[
        int | None, option("--min-nodes", text="Ready nodes needed. (default: the app's)", panel=CONDITIONS)
    ] = None,
    max_nodes: Annotated[
        int | None, option("--max-nodes", text="Ask no more nodes than this (0: all).", panel=CONDITIONS)
    ] = None,
    prefer: Annotated[
        str | None,
        option(
            "--prefer",
            text="Which nodes first: freshest, fewest-tasks, coolest, random. (default: random)",
            panel=CONDITIONS,
            metavar="RULE",
        ),
    ] = None,
    node: Annotated[
        list[str] | None,
        option("--node", text="A node that must be ready and is asked (repeatable).", panel=CONDITIONS, metavar="NAME"),
    ] = None,
    label: Annotated[
        list[str] | None,
        option(
            "--label", text="Count and ask only nodes with this label (repeatable).", panel=CONDITIONS, metavar="LABEL"
        ),
    ] = None,
    fresh_data: Annotated[
        bool | None,
        option("--fresh-data/--any-data", text="Need trips newer than the last success.", panel=CONDITIONS),
    ] = None,
    no_error_condition: Annotated[
        bool | None,
        option("--no-errors/--with-errors", text="No ready node may report an error.", panel=CONDITIONS),
    ] = None,
    no_suspicious_update: Annotated[
        bool | None,
        option("--no-suspicious/--with-suspicious", text="Leave out cars with suspicious updates.", panel=CONDITIONS),
    ] = None,
    when_drift: Annotated[
        bool | None,
        option("--when-drift/--any-drift", text="Only when the model no longer fits the cars.", panel=CONDITIONS),
    ] = None,
    wait: Annotated[
        str | None,
        option("--wait", text="Give up waiting for nodes. (default: 12h)", panel=CONDITIONS, metavar="DURATION"),
    ] = None,
    blackout: Annotated[
        list[str] | None,
        option(
            "--blackout", text="No starts: '07:00-19:00 mon,tue Europe/Lisbon'.", panel=CONDITIONS, metavar="WINDOW"
        ),
    ] = None,
    no_blackout: Annotated[bool | None, option("--no-blackout", text="Remove all blackouts.", panel=CONDITIONS)] = None,
    app: Annotated[
        Path | None, option("--app", text="Flower app folder or .fab. (default: FLEVEn's)", panel=RUN)
    ] = None,
    set_: Annotated[
        list[str] | None, option("--set", text="Override a config key (repeatable).", panel=RUN, metavar="KEY=VALUE")
    ] = None,
    unset: Annotated[
        list[str] | None, option("--unset", text="Drop an override (repeatable).", panel=RUN, metavar="KEY")
    ] = None,
    experiment: Annotated[
        str | None, option("--experiment", text="Folder name of its results.", panel=RUN, metavar="NAME")
    ] = None,
    description: Annotated[
        str | None, option("--description", text="A note for people.", panel=RUN, metavar="TEXT")
    ] = None,
    overlap: Annotated[
        str | None, option("--overlap", text="skip, queue or replace. (default: skip)", panel=RULES, metavar="POLICY")
    ] = None,
    missed: Annotated[
        str | None,
        option("--missed", text="Missed fires: skip, latest, all. (default: latest)", panel=RULES, metavar="POLICY"),
    ] = None,
    maximum_lateness: Annotated[
        str | None,
        option("--max-lateness", text="Older missed fires are skipped. (default: 1d)", panel=RULES, metavar="DURATION"),
    ] = None,
    retry: Annotated[
        int | None, option("--retry", text="Tries after a failure. (default: 1)", panel=RULES, metavar="COUNT")
    ] = None,
    retry_backoff: Annotated[
        str | None,
        option(
            "--retry-backoff", text="First pause, doubled each time. (default: 1m)", panel=RULES, metavar="DURATION"
        ),
    ] = None,
    retry_on: Annotated[
        str | None,
        option(
            "--retry-on",
            text="Kinds: infrastructure,nodes,app,timeout. (default: infrastructure,nodes)",
            panel=RULES,
            metavar="KINDS",
        ),
    ] = None,
    resume: Annotated[
        bool | None, option("--resume/--no-resume", text="Retry from the last checkpoint. (default: on)", panel=RULES)
    ] = None,
    max_duration: Annotated[
        str | None,
        option("--max-duration", text="Stop the run after this (0: never).", panel=RULES, metavar="DURATION"),
    ] = None,
    priority: Annotated[int | None, option("--priority", text="Higher goes first. (default: 0)", panel=RULES)] = None,
    promote: Annotated[
        str | None,
        option(
            "--promote",
            text="Its model becomes champion: by-hand, if-better. (default: by-hand)",
            panel=RULES,
            metavar="RULE",
        ),
    ] = None,
    minimum_gain: Annotated[
        float | None,
        option("--minimum-gain", text="By how much the error must fall. (default: 0.01)", panel=RULES, metavar="SHARE"),
    ] = None,
    maximum_losers: Annotated[
        float | None,
        option(
            "--maximum-losers", text="Share of cars that may get worse. (default: 0.2)", panel=RULES, metavar="SHARE"
        ),
    ] = None,
    loser_tolerance: Annotated[
        float | None,
        option(
            "--loser-tolerance",
            text="Growth of a car's error that counts. (default: 0.05)",
            panel=RULES,
            metavar="SHARE",
        ),
    ] = None,
) -> None:
    """Hold the signature that commands borrow; never called."""


def with_spec_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command all options of a schedule; it receives them as keyword arguments in `**options`."""
    borrowed = inspect.signature(spec_options).parameters
    own = {
        name: parameter
        for name, parameter in inspect.signature(command).parameters.items()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }
    ordered = sorted(
        [*own.values(), *borrowed.values()], key=lambda parameter: parameter.default is not inspect.Parameter.empty
    )
    hints = {
        **get_type_hints(spec_options, include_extras=True),
        **{k: v for k, v in get_type_hints(command, include_extras=True).items() if k in own},
    }

    def wrapper(**arguments: Any) -> None:
        command(**arguments)

    wrapper.__doc__ = command.__doc__
    wrapper.__name__ = command.__name__
    wrapper.__annotations__ = {**hints, "return": None}
    wrapper.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in ordered]
    )
    return wrapper


OPTION_OF_KEY = {
    "after": "--after",
    "conditions.min-nodes": "--min-nodes",
    "conditions.max-nodes": "--max-nodes",
    "conditions.prefer": "--prefer",
    "conditions.nodes": "--node",
    "conditions.labels": "--label",
    "conditions.wait": "--wait",
    "blackouts": "--blackout",
    "app": "--app",
    "run-config": "--set",
    "experiment": "--experiment",
    "description": "--description",
    "overlap": "--overlap",
    "missed": "--missed",
    "maximum-lateness": "--max-lateness",
    "retry.attempts": "--retry",
    "retry.backoff": "--retry-backoff",
    "retry.on": "--retry-on",
    "max-duration": "--max-duration",
    "priority": "--priority",
    "promote": "--promote",
    "minimum-gain": "--minimum-gain",
    "maximum-losers": "--maximum-losers",
    "loser-tolerance": "--loser-tolerance",
}


TRIGGER_FIELD_DOTS = 2
"""A field of a trigger is placed at `trigger.KIND.FIELD`."""


def split_assignment(text: str) -> tuple[str, str]:
    """Split `key=value`.

    Raises:
        UsageError: there is no `=`, or no key.
    """
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise UsageError(f"--set: '{text}' is not KEY=VALUE", hint="for example --set rounds=20")
    return key.strip(), value


def parse_blackout(text: str) -> dict[str, Any]:
    """Return a blackout of `22:00-06:00 [mon,tue] [Europe/Lisbon]`.

    Raises:
        UsageError: it has no window of time.
    """
    window, *rest = shlex.split(text) or [""]
    start, separator, end = window.partition("-")
    if not separator:
        raise UsageError(f"--blackout: '{text}' has no window", hint="write '07:00-19:00 mon,tue,wed Europe/Lisbon'")
    found: dict[str, Any] = {"start": start, "end": end}
    for word in rest:
        if "/" in word or word == "UTC":
            found["timezone"] = word
        else:
            found["days"] = [day.strip().lower() for day in word.split(",") if day.strip()]
    return found


def trigger_options() -> dict[str, tuple[str, ...]]:
    """Return the kinds of trigger, each with the options that go with its own."""
    from fleven.server.schedules.triggers import TRIGGERS

    fields = {trigger.model_fields["kind"].default: trigger.model_fields for trigger in TRIGGERS}
    return {kind: tuple(name for name in names if name not in ("kind", kind)) for kind, names in fields.items()}


def trigger_from(options: dict[str, Any], old: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the trigger that the options describe, or None when none of them does.

    Raises:
        UsageError: they name more than one, or something that does not go with it.
    """
    details = trigger_options()
    kinds = [kind for kind in details if options.get(kind)]
    if len(kinds) > 1:
        raise UsageError(f"--{kinds[0]} and --{kinds[1]} exclude each other", hint="a schedule has one trigger")
    kind: str | None = kinds[0] if kinds else (old or {}).get("kind")
    given = [name for name in dict.fromkeys(itertools.chain(*details.values())) if options.get(name) is not None]
    for name in given:
        owners = [f"--{owner}" for owner, names in details.items() if name in names]
        if kind is None or name not in details.get(kind, ()):
            raise UsageError(f"--{option_name(name)} goes with {' or '.join(owners)}")
    if not kinds and not given:
        return None
    changed = {"kind": kind} if kinds or old is None else {**old, "kind": kind}
    if kinds and options[kinds[0]] is not True:
        changed[kinds[0]] = options[kinds[0]]
    return changed | {option_name(name): options[name] for name in given}


def option_name(field: str) -> str:
    """Return the name of a field as options and stored forms write it."""
    return field.replace("_", "-")


def changes_from(
    options: dict[str, Any], old: dict[str, Any], part: Callable[[], AbstractContextManager[None]]
) -> dict[str, Any]:
    """Return a schedule's stored form with the options applied to it.

    Args:
        options: as typer parsed them; None for those not given.
        old: stored form of the schedule as it is ({} for a new one).
        part: keeps the UsageError of one option.
    """
    new: dict[str, Any] = json.loads(json.dumps(old))

    def put(path: str, value: Any) -> None:
        *parents, last = path.split(".")
        table = new
        for parent in parents:
            table = table.setdefault(parent, {})
        table[last] = value

    with part():
        trigger = trigger_from(options, old.get("trigger"))
        if trigger is not None:
            new["trigger"] = trigger
    plain = {
        "after": "after",
        "min_nodes": "conditions.min-nodes",
        "max_nodes": "conditions.max-nodes",
        "prefer": "conditions.prefer",
        "fresh_data": "conditions.fresh-data",
        "no_error_condition": "conditions.no-error-condition",
        "no_suspicious_update": "conditions.no-suspicious-update",
        "when_drift": "conditions.when-drift",
        "wait": "conditions.wait",
        "experiment": "experiment",
        "description": "description",
        "overlap": "overlap",
        "missed": "missed",
        "maximum_lateness": "maximum-lateness",
        "retry": "retry.attempts",
        "retry_backoff": "retry.backoff",
        "resume": "retry.resume",
        "priority": "priority",
        "promote": "promote",
        "minimum_gain": "minimum-gain",
        "maximum_losers": "maximum-losers",
        "loser_tolerance": "loser-tolerance",
    }
    for name, path in plain.items():
        if options.get(name) is not None:
            put(path, options[name])
    for name, path in {"node": "conditions.nodes", "label": "conditions.labels"}.items():
        if options.get(name):
            put(path, [word for word in options[name] if word])
    if options.get("app") is not None:
        put("app", str(Path(options["app"]).absolute()))
    if options.get("retry_on") is not None:
        put("retry.on", [word.strip() for word in options["retry_on"].split(",") if word.strip()])
    if options.get("max_duration") is not None:
        put("max-duration", None if options["max_duration"] == "0" else options["max_duration"])
    if options.get("no_blackout"):
        put("blackouts", [])
    if options.get("blackout"):
        with part():
            put("blackouts", [parse_blackout(text) for text in options["blackout"]])
    return new


def option_problem(location: Sequence[int | str], message: str) -> str:
    """Return one line `--option: problem` for a problem of a schedule's stored form."""
    key = ".".join(str(part) for part in location)
    if key.startswith("trigger.") and key.count(".") == TRIGGER_FIELD_DOTS:
        known = f"--{key.rpartition('.')[2]}"
    else:
        names = (name for prefix, name in OPTION_OF_KEY.items() if key == prefix or key.startswith(f"{prefix}."))
        known = next(names, key or "schedule")
    text = message.removeprefix("Value error, ")
    return f"{known}: {text}"
