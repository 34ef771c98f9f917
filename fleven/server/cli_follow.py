"""Following a run to its end, for the commands that do so: what is printed, and the exit code."""

import sys
from typing import Any

import typer

from fleven.server.cli_common import console, now, print_json


def follow_to_end(server: Any, run_id: int, *, as_json: bool, drawn: bool = False) -> None:
    """Follow a run, print how it ended, and leave with its exit code.

    Args:
        server: the opened server.
        run_id: number of the run.
        as_json: print nothing but the answer at the end.
        drawn: draw the run live where there is a terminal, instead of a line for each step.
    """
    from fleven.server.follow import end_text, follow_run, watch_until_end
    from fleven.server.live import watch_live
    from fleven.server.plans import result_exit_code
    from fleven.server.printing import print_result
    from fleven.server.run_answers import run_answer
    from fleven.server.run_files import RunFolders, result

    store = server.store
    try:
        if as_json:
            run = watch_until_end(store, run_id, lambda _: None, lambda _: None)
        elif drawn and console().is_terminal:
            run = watch_live(store, server.paths, run_id)
        else:
            run = follow_run(store, run_id)
    except KeyboardInterrupt:
        sys.stderr.write(f"\nrun {run_id} goes on; stop it with: fleven-server runs stop {run_id}\n")
        raise typer.Exit(130) from None
    if as_json:
        print_json(run_answer(run, now()))
    else:
        if ended := result(RunFolders.of(run, server.paths)):
            print_result(ended)
        typer.echo(end_text(run, now()))
    raise typer.Exit(result_exit_code(run.state))
