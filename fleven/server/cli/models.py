"""`fleven-server models`: versions of the models, and which one is used. Thin: parses, calls, prints."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from fleven.server.access.model import Action
from fleven.server.cli.common import ConfigOption, JsonOption, Opened, console, note, now, opened, print_json, table
from fleven.server.errors import ServerError
from fleven.server.models.model import Reference

app = typer.Typer(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Models: list, show, compare, promote, roll back, export, import, delete.",
)

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="EXPERIMENT@VERSION, @champion (the default) or @previous.")
]
ExperimentOption = Annotated[str, typer.Option("--experiment", metavar="NAME", help="Only this experiment.")]
ReasonOption = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Kept with the name, and in `users log`.")]


@contextmanager
def taken_in(config: Path | None) -> Iterator[Opened]:
    """Open the register, with the models of all runs that have succeeded so far."""
    from fleven.server.models import registry

    with opened(config) as server:
        registry.take_in_all(server.store, server.paths, now())
        yield server


@app.callback()
def models_command(context: typer.Context, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Models: list, show, compare, promote, roll back, export, import, delete.

    Example: fleven-server models

    Example: fleven-server models promote Fleven-Deploy@3
    """
    if context.invoked_subcommand is None:
        list_models("", config, as_json=as_json)


@app.command("list")
def list_command(experiment: ExperimentOption = "", config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the versions of all experiments, newest first.

    Example: fleven-server models list --experiment Fleven-Deploy
    """
    list_models(experiment, config, as_json=as_json)


def list_models(experiment: str, config: Path | None, *, as_json: bool) -> None:
    """Print versions."""
    from fleven.server.cli.run_tables import number
    from fleven.server.models import registry

    with taken_in(config) as server, server.store.read() as connection:
        found = registry.versions(connection, experiment)
    if as_json:
        print_json([_answer(model) for model in found])
        return
    if not found:
        typer.echo("no model yet: a successful run makes one")
        return
    made = table(
        "model|fixed", "name", "run|right", "R²|right", "own R²|right", "RMSE|right", "cars|right", "made|fixed"
    )
    for model in found:
        whole, own = model.facts.get("global") or {}, model.facts.get("personal") or {}
        made.add_row(
            model.name,
            model.standing,
            number(model.run_id),
            number(whole.get("r2"), 3),
            number(own.get("r2"), 3),
            number(whole.get("rmse")),
            number((model.facts.get("data") or {}).get("cars")),
            f"{model.made_at:%Y-%m-%d %H:%M}Z",
        )
    console().print(made)


@app.command("show")
def show_command(model: ModelArgument, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show one version: figures, data, where it comes from, configuration.

    Example: fleven-server models show Fleven-Deploy@champion
    """
    from fleven.server.models import registry
    from fleven.server.models.model import card

    with taken_in(config) as server, server.store.read() as connection:
        found = registry.find(connection, Reference.parse(model))
    if as_json:
        print_json(_answer(found))
    else:
        typer.echo(card(found), nl=False)


@app.command("compare")
def compare_command(
    first: ModelArgument, second: ModelArgument, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """Compare two versions by the figures of their own runs, whose held-out windows may differ.

    Example: fleven-server models compare Fleven-Deploy@champion Fleven-Deploy@4
    """
    from fleven.server.cli.run_tables import print_pairs
    from fleven.server.models import registry
    from fleven.server.models.model import differences

    with taken_in(config) as server, server.store.read() as connection:
        compared = differences(*(registry.find(connection, Reference.parse(text)) for text in (first, second)))
    if as_json:
        print_json(compared)
        return
    figures = [
        (f"{kind}: {key}", pair, 3 if key == "r2" else 0 if kind == "data" else 2)
        for kind in ("global", "personal", "data")
        for key, pair in compared[kind].items()
    ]
    print_pairs(compared["models"], figures, compared["config"])


@app.command("promote")
def promote_command(model: ModelArgument, reason: ReasonOption = "", config: ConfigOption = None) -> None:
    """Make a version the champion of its experiment; the one before it becomes `previous`.

    Example: fleven-server models promote Fleven-Deploy@3 --reason "better on all cars"
    """
    from fleven.server.models import registry

    with taken_in(config) as server, server.store.write() as connection:
        found = registry.find(connection, Reference.parse(model))
        registry.checked_file(server.paths, found)
        registry.promote(connection, found, reason, now())
        note(connection, Action.MODEL_PROMOTED, found.name, reason)
    typer.echo(f"{found.name} is the champion")


@app.command("rollback")
def rollback_command(
    experiment: Annotated[
        str, typer.Argument(metavar="EXPERIMENT", help="The experiment whose champion and previous swap.")
    ],
    reason: ReasonOption = "",
    config: ConfigOption = None,
) -> None:
    """Go back to the champion before this one.

    Example: fleven-server models rollback Fleven-Deploy --reason "errors in car 3"
    """
    from fleven.server.models import registry

    with taken_in(config) as server, server.store.write() as connection:
        found = registry.roll_back(connection, Reference.parse(experiment).experiment, reason, now())
        note(connection, Action.MODEL_ROLLED_BACK, found.name, reason)
    typer.echo(f"{found.name} is the champion again")


@app.command("export")
def export_command(
    model: ModelArgument,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write; created if necessary.")],
    config: ConfigOption = None,
) -> None:
    """Write a version into a folder: model.safetensors, the same model as model.onnx, and a card (README.md).

    ONNX needs the packages of fleven[onnx]; what is written predicts the same to 1e-5 of the target's spread.

    Example: fleven-server models export Fleven-Deploy@champion --out ./champion
    """
    from fleven.server.models import registry
    from fleven.server.models.model import card

    with taken_in(config) as server, server.store.read() as connection:
        found = registry.find(connection, Reference.parse(model))
        source = registry.checked_file(server.paths, found)
    try:
        out.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, out / "model.safetensors")
        (out / "README.md").write_text(card(found), encoding="utf-8")
    except OSError as error:
        raise ServerError(f"{error.filename or out}: {error.strerror or error}", code="export-failed") from None
    typer.echo(f"{found.name} written to {out}{_as_onnx(out)}")


def _as_onnx(folder: Path) -> str:
    """Write the model in a folder as ONNX beside it; return what came of it, for the end of a sentence."""
    from fleven.data.errors import FlevenError
    from fleven.predict import onnx_export

    try:
        onnx_export.write(folder / "model.safetensors", folder / "model.onnx")
    except ImportError as error:
        return f", without ONNX: the package {error.name} is missing (pip install 'fleven[onnx]')"
    except FlevenError as error:
        return f", without ONNX: {error.problems[0].problem}"
    return ", with ONNX"


@app.command("mlflow")
def mlflow_command(
    model: ModelArgument,
    tracking_uri: Annotated[
        str,
        typer.Option("--tracking-uri", metavar="URI", envvar="MLFLOW_TRACKING_URI", help="URI of the MLflow server."),
    ],
    register_as: Annotated[
        str, typer.Option("--register-as", metavar="NAME", help="Also a version of this model in MLflow's registry.")
    ] = "",
    config: ConfigOption = None,
) -> None:
    """Write a version to MLflow: settings, metrics of each round, bundle, and the model as ONNX with its signature.

    Needs the packages of fleven[mlflow].

    Example: fleven-server models mlflow Fleven-Deploy --tracking-uri http://127.0.0.1:5000
    """
    from fleven.data.errors import FlevenError
    from fleven.server.models import mlflow_export, registry
    from fleven.server.runs import store as run_store
    from fleven.server.runs.results import RunFolders, rows

    with taken_in(config) as server, server.store.read() as connection:
        found = registry.find(connection, Reference.parse(model))
        source = registry.checked_file(server.paths, found)
        run = None
        with suppress(ServerError):  # its run was removed, or it was imported
            run = run_store.get(connection, found.run_id) if found.run_id is not None else None
        rounds = rows(RunFolders.of(run, server.paths), "rounds.json") if run is not None else []
    try:
        written = mlflow_export.write(found, source, rounds, tracking_uri, register_as)
    except ImportError as error:
        hint = "pip install 'fleven[mlflow]'"
        raise ServerError(f"the package {error.name} is missing", hint=hint, code="package-missing") from None
    except FlevenError as error:
        raise ServerError(error.problems[0].line(), code="export-failed") from None
    typer.echo(f"{found.name} written to {tracking_uri} as run {written}")


@app.command("import")
def import_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A model.safetensors.")],
    experiment: Annotated[str, typer.Option("--experiment", metavar="NAME", help="Default: what the file says.")] = "",
    config: ConfigOption = None,
) -> None:
    """Add a model from elsewhere as the next version. Reading it runs no code.

    Example: fleven-server models import ./model.safetensors --experiment night
    """
    from fleven.server.models import registry

    with taken_in(config) as server:
        found = registry.take_file(server.store, server.paths, file, experiment, now())
        with server.store.write() as connection:
            note(connection, Action.MODEL_IMPORTED, found.name, str(file))
    typer.echo(f"{found.name} imported")


@app.command("delete")
def delete_command(model: ModelArgument, config: ConfigOption = None) -> None:
    """Delete a version that is neither champion nor previous, and its file.

    Example: fleven-server models delete Fleven-Deploy@2
    """
    from fleven.server.models import registry

    with taken_in(config) as server:
        found = registry.remove(server.store, server.paths, Reference.parse(model))
        with server.store.write() as connection:
            note(connection, Action.MODEL_DELETED, found.name)
    typer.echo(f"{found.name} deleted")


def _answer(model: Any) -> dict[str, Any]:
    plain = {key: value for key, value in asdict(model).items() if key not in ("id", "file")}
    return plain | {"name": model.name, "aliases": model.aliases}
