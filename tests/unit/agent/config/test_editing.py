"""Keys are written where they belong in a node.toml, and no other byte of it changes."""

import tomllib
from pathlib import Path

import pytest

from fleven_agent.config.editing import with_keys

VALUES = {"partition-id": "3", "superlink": '"100.64.0.1:9092"'}


@pytest.mark.parametrize("name", ["etc/fleven/node.toml", "packaging/conffiles/node.toml"])
def test_the_shipped_files_get_their_two_lines_where_they_are_shown(repository: Path, name: str) -> None:
    before = (repository / name).read_text(encoding="utf-8")
    after = with_keys(before, VALUES)
    assert tomllib.loads(after)["partition-id"] == 3
    assert "#partition-id = 0\npartition-id = 3\n" in after
    added = {"partition-id = 3\n", 'superlink = "100.64.0.1:9092"\n'}
    assert [line for line in after.splitlines(keepends=True) if line not in added] == before.splitlines(keepends=True)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "partition-id = 3\n"),
        ('node-name = "x"', 'node-name = "x"\npartition-id = 3\n'),
        ("[gates]\nundervoltage = true\n", "partition-id = 3\n[gates]\nundervoltage = true\n"),
        ("# own\n\n# of gates\n[gates]\n", "partition-id = 3\n# own\n\n# of gates\n[gates]\n"),
        ("a = 1\n\n# of gates\n[gates]\n", "a = 1\npartition-id = 3\n\n# of gates\n[gates]\n"),
        ("[gates]\n#partition-id = 7\n", "partition-id = 3\n[gates]\n#partition-id = 7\n"),
    ],
)
def test_a_key_stays_out_of_the_tables(before: str, after: str) -> None:
    assert with_keys(before, {"partition-id": "3"}) == after
