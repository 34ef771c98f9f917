"""The registry's rows and files: taking in, naming, deleting. Files are copies: they outlive their run's folder.

Must not import torch, FastAPI or typer.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import struct
import tempfile
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from fleven.server.access import audit
from fleven.server.access.model import Action, Actor, Source
from fleven.server.config.paths import Paths
from fleven.server.database import Store
from fleven.server.database.tables import model_aliases, model_counters, models, runs
from fleven.server.errors import NotFoundError, ServerError, UsageError
from fleven.server.models.model import Alias, ModelVersion, Naming, Reference, facts_of
from fleven.server.models.promotion import Promotion, judge
from fleven.server.nodes import drift, suspicion
from fleven.server.runs import store as run_store
from fleven.server.runs.model import Run, RunState
from fleven.server.runs.results import RunFolders, number, result
from fleven.server.schedules.spec import Promote

EXPERIMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
LARGEST_HEADER_BYTES = 10_000_000
KIND = "fleven-model"


def folder(paths: Paths) -> Path:
    """Return where the registry's files lie."""
    return paths.state / "models"


def versions(connection: Connection, experiment: str = "") -> list[ModelVersion]:
    """Return all versions, or those of one experiment, the newest of each first."""
    query = select(models).where(models.c.file != "").order_by(models.c.experiment, models.c.version.desc())
    if experiment:
        query = query.where(models.c.experiment == experiment)
    names = _names(connection)
    return [_from_row(row, names.get(row.id, [])) for row in connection.execute(query)]


def champion(connection: Connection, experiment: str) -> ModelVersion | None:
    """Return the model of an experiment that is in use; None for none."""
    return next((model for model in versions(connection, experiment) if Alias.CHAMPION in model.aliases), None)


def named(connection: Connection) -> list[ModelVersion]:
    """Return the versions that have a name, of all experiments."""
    ids = select(model_aliases.c.model_id)
    names = _names(connection)
    found = connection.execute(select(models).where(models.c.id.in_(ids)).order_by(models.c.id))
    return [_from_row(row, names[row.id]) for row in found]


def of_run(connection: Connection, run_id: int) -> ModelVersion | None:
    """Return the version that a run's model became; None where it is none, or not yet."""
    row = connection.execute(select(models).where(models.c.run_id == run_id, models.c.file != "")).first()
    if row is None:
        return None
    return _from_row(row, _names(connection).get(row.id, []))


def champion_path(store: Store, paths: Paths, experiment: str) -> str:
    """Return the file of an experiment's champion, for a run that is compared with it; "" for none."""
    with store.read() as connection:
        found = champion(connection, experiment)
    return "" if found is None else str(folder(paths) / found.file)


def find(connection: Connection, reference: Reference) -> ModelVersion:
    """Return the version that a reference means. Raises NotFoundError."""
    for model in versions(connection, reference.experiment):
        if model.version == reference.version or (reference.alias is not None and reference.alias in model.aliases):
            return model
    wanted = f"version {reference.version}" if reference.version else f"{reference.alias}"
    raise NotFoundError(
        f"{reference.experiment} has no {wanted}", hint="fleven-server models lists what there is", code="model-unknown"
    )


def take_in_all(store: Store, paths: Paths, now: datetime, since: datetime | None = None) -> list[ModelVersion]:
    """Take in the model of every succeeded run that has one and is not in the registry; return what is new.

    since: only of runs that have ended after this.
    """
    with store.read() as connection:
        known = select(models.c.run_id).where(models.c.run_id.is_not(None))
        found = select(runs.c.id).where(runs.c.state == RunState.SUCCEEDED.value, runs.c.id.not_in(known))
        if since is not None:
            found = found.where(runs.c.ended_at > since)
        waiting = [run_store.get(connection, row.id) for row in connection.execute(found.order_by(runs.c.id))]
    taken = (take_in(store, paths, run, now) for run in waiting)
    return [model for model in taken if model is not None]


def take_in(store: Store, paths: Paths, run: Run, now: datetime) -> ModelVersion | None:
    """Make the model of a succeeded run a version of its experiment; None when it has none, or is one already."""
    folders = RunFolders.of(run, paths)
    source = folders.results / "model.safetensors" if folders.results is not None else None
    if source is None or not source.is_file() or source.is_symlink():
        return None
    ended = result(folders)
    if ended is None or not EXPERIMENT.fullmatch(str(ended.get("experiment"))):
        return None
    suspicion.remember(store, run.id, ended, now)
    facts = facts_of(ended, run.attempt.resume_from if run.attempt else None, run.schedule_name)
    experiment = str(ended["experiment"])

    def decide(connection: Connection) -> Promotion | None:
        if run.spec.promote is not Promote.IF_BETTER:
            return None
        found = champion(connection, experiment)
        return judge(ended, None if found is None else (found.name, found.sha256), run.spec)

    return _add(store, paths, source, experiment, run.id, facts, now, decide)


def take_file(store: Store, paths: Paths, source: Path, experiment: str, now: datetime) -> ModelVersion:
    """Make a bundle from elsewhere a version. Reads its header and runs nothing. Raises UsageError."""
    plain = header(source)
    if not EXPERIMENT.fullmatch(experiment or str(plain["provenance"].get("experiment"))):
        raise UsageError(f"{source}: names no experiment", hint="--experiment NAME gives it one")
    provenance = plain["provenance"]
    facts = {
        "target": plain.get("target"),
        "unit": plain.get("unit"),
        "features": plain.get("features") or [],
        "rounds": provenance.get("rounds"),
        "global": provenance.get("global") or {},
        "personal": provenance.get("personal"),
        "data": {
            "cars": len(provenance.get("cars") or []),
            "rows": (provenance.get("global") or {}).get("rows"),
            "windows_test": (provenance.get("global") or {}).get("windows"),
        },
        "config": plain.get("settings") or {},
        "lineage": {"imported_from": str(source), "flower_run_id": provenance.get("run_id"), "resumed_from": None},
    }
    made = _add(store, paths, source, experiment or str(provenance["experiment"]), None, facts, now)
    if made is None:
        raise ServerError(f"{source}: was not imported", code="model-not-taken")
    return made


def header(source: Path) -> dict[str, Any]:
    """Return the plain values of a bundle. Raises UsageError for any other file."""
    try:
        with source.open("rb") as stream:
            (size,) = struct.unpack("<Q", stream.read(8))
            text = stream.read(min(size, LARGEST_HEADER_BYTES))
        plain = json.loads(json.loads(text)["__metadata__"]["fleven"])
    except OSError as error:
        raise UsageError(f"{source}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, RecursionError, struct.error):
        plain = None
    if not isinstance(plain, dict) or plain.get("kind") != KIND or not isinstance(plain.get("provenance"), dict):
        raise UsageError(f"{source}: is not a model of this app", hint="give a model.safetensors")
    return plain


def promote(connection: Connection, model: ModelVersion, reason: str, now: datetime) -> None:
    """Make a version the champion; the champion that it follows becomes `previous`."""
    old = _aliased(connection, model.experiment, Alias.CHAMPION)
    if old == model.id:
        raise UsageError(f"{model.name} is the champion already")
    if old is not None:
        _name(connection, model.experiment, Alias.PREVIOUS, old, reason, now)
    _name(connection, model.experiment, Alias.CHAMPION, model.id, reason, now)
    rmse = number((model.facts.get("global") or {}).get("rmse"))
    reference = drift.Reference(model.name, model.sha256, rmse, model.facts.get("errors") or {})
    drift.remember(connection, model.experiment, reference, now)


def roll_back(connection: Connection, experiment: str, reason: str, now: datetime) -> ModelVersion:
    """Exchange champion and previous; return the champion. Raises NotFoundError where there is no previous one."""
    before = find(connection, Reference(experiment, alias=Alias.PREVIOUS))
    promote(connection, before, reason, now)
    return find(connection, Reference(experiment, alias=Alias.CHAMPION))


def remove(store: Store, paths: Paths, reference: Reference) -> ModelVersion:
    """Delete a version and its file; one that has a name stays. Raises UsageError and NotFoundError."""
    with store.write() as connection:
        model = find(connection, reference)
        if model.aliases:
            hint = "promote another version first"
            raise UsageError(f"{model.name} is {' and '.join(model.aliases)}", hint=hint)
        # The row stays, without a file: the model of its run must not be taken in again.
        connection.execute(update(models).where(models.c.id == model.id).values(file="", facts={}))
    (folder(paths) / model.file).unlink(missing_ok=True)
    return model


def checked_file(paths: Paths, model: ModelVersion) -> Path:
    """Return a version's file. Raises ServerError when it is gone or is not what was taken in."""
    path = folder(paths) / model.file
    try:
        digest = _sha256(path)
    except OSError as error:
        raise ServerError(f"{path}: {error.strerror or error}", code="model-file-missing") from None
    if digest != model.sha256:
        raise ServerError(f"{path}: its SHA-256 is {digest}, was {model.sha256}", code="model-file-changed")
    return path


def _add(
    store: Store,
    paths: Paths,
    source: Path,
    experiment: str,
    run_id: int | None,
    facts: dict[str, Any],
    now: datetime,
    decide: Callable[[Connection], Promotion | None] = lambda _: None,
) -> ModelVersion | None:
    """Copy the file, then write the row: a crash in between leaves a file that nothing names.

    decide: says in the same moment whether it becomes the champion, so that no other can become it in between.
    """
    target = folder(paths) / experiment
    target.mkdir(parents=True, exist_ok=True)
    owner = paths.state.stat()
    handle, name = tempfile.mkstemp(prefix=".", suffix=".part", dir=target)
    os.close(handle)
    part = Path(name)
    try:
        shutil.copyfile(source, part)
        with part.open("rb+") as stream:
            os.fchmod(stream.fileno(), 0o640)
            os.fsync(stream.fileno())
        digest = _sha256(part)
        if os.geteuid() == 0:  # a command of root's: the service must be able to read and remove it
            for path in (folder(paths), target, part):
                os.chown(path, owner.st_uid, owner.st_gid)
        with store.write() as connection:
            if run_id is not None and connection.execute(select(models.c.id).where(models.c.run_id == run_id)).first():
                return None
            version = _next_version(connection, experiment)
            file = f"{experiment}/v{version:06d}-{digest[:12]}.safetensors"
            part.replace(folder(paths) / file)
            promotion = decide(connection)
            if promotion is not None:
                facts = facts | {"promotion": promotion.plain()}
            row = {
                "experiment": experiment,
                "version": version,
                "run_id": run_id,
                "made_at": now,
                "file": file,
                "sha256": digest,
                "facts": facts,
            }
            connection.execute(insert(models).values(**row))
            made = find(connection, Reference(experiment, version))
            if promotion is not None and promotion.code.promoted:
                promote(connection, made, promotion.message, now)
                by_rule = Actor(f"schedule {facts['lineage']['schedule']}", Source.SERVICE, "")
                audit.record(connection, now, by_rule, Action.MODEL_PROMOTED, made.name, promotion.message)
                made = find(connection, Reference(experiment, version))
            return made
    finally:
        part.unlink(missing_ok=True)


def _next_version(connection: Connection, experiment: str) -> int:
    counter = model_counters
    query = select(counter.c.newest).where(counter.c.experiment == experiment)
    number = int(connection.execute(query).scalar() or 0) + 1
    statement = upsert(counter).values(experiment=experiment, newest=number)
    connection.execute(statement.on_conflict_do_update(index_elements=["experiment"], set_={"newest": number}))
    return number


def _aliased(connection: Connection, experiment: str, alias: Alias) -> int | None:
    query = select(model_aliases.c.model_id).where(
        model_aliases.c.experiment == experiment, model_aliases.c.alias == alias.value
    )
    return connection.execute(query).scalar()


def _name(connection: Connection, experiment: str, alias: Alias, model_id: int, reason: str, now: datetime) -> None:
    values = {"model_id": model_id, "since": now, "reason": reason}
    statement = upsert(model_aliases).values(experiment=experiment, alias=alias.value, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["experiment", "alias"], set_=values))


def _names(connection: Connection) -> dict[int, list[Naming]]:
    """Return the names of all versions that have one, by their row."""
    names: dict[int, list[Naming]] = {}
    for row in connection.execute(select(model_aliases).order_by(model_aliases.c.alias)):
        names.setdefault(row.model_id, []).append(Naming(Alias(row.alias), row.since, row.reason))
    return names


def _from_row(row: Row[Any], names: Sequence[Naming]) -> ModelVersion:
    return ModelVersion(
        row.id, row.experiment, row.version, row.run_id, row.made_at, row.file, row.sha256, row.facts, tuple(names)
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
