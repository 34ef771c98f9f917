"""Makes many past runs of the last one that succeeded: rows of the register, and folders with files of results.

Usage: python3 - RUNS FILES    on the server, as root
A program of its own, standard library only.
"""

import os
import shutil
import sqlite3
import sys
import uuid
from pathlib import Path

REGISTER = "/var/lib/fleven-server/register.db"


def insert(connection: sqlite3.Connection, table: str, row: dict[str, object]) -> int:
    names, marks = ",".join(row), ",".join("?" * len(row))
    done = connection.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", list(row.values()))  # noqa: S608
    return int(done.lastrowid or 0)


def main() -> None:
    runs, files = map(int, sys.argv[1:])
    connection = sqlite3.connect(REGISTER, timeout=60)
    connection.row_factory = sqlite3.Row
    run = dict(connection.execute("SELECT * FROM runs WHERE state = 'succeeded' ORDER BY id DESC").fetchone())
    attempt = dict(connection.execute("SELECT * FROM attempts WHERE run_id = ?", (run.pop("id"),)).fetchone())
    attempt.pop("id")
    owner = Path(attempt["results_folder"]).stat()
    for number in range(runs):
        key, folder = uuid.uuid4().hex, Path(f"{attempt['results_folder']}-past-{number}")
        run["occurrence_key"] = key
        attempt |= {"run_id": insert(connection, "runs", run), "token": key, "flower_run_id": str(10**15 + number)}
        insert(connection, "attempts", attempt | {"results_folder": str(folder), "metrics_folder": str(folder)})
        folder.mkdir()
        for file in range(files):
            (folder / f"file-{file}.csv").write_text("round,value\n1,2\n" * 50)
        for path in (folder, *folder.iterdir()):
            shutil.chown(path, owner.st_uid, owner.st_gid)
    connection.commit()
    os.sync()


if __name__ == "__main__":
    main()
