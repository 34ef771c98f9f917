"""The agent's durable memory while it runs: changes are collected and written once a cycle."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from fleven_agent.journal import LOGGER, event
from fleven_agent.statefile import MAXIMUM_PREVIOUS_NODES, SEQUENCE_BLOCK, Remembered, StateFile, fresh


class Memory:
    """Holds ``Remembered`` and the sequence of reports.

    Args:
        directory: the state folder.
        board_serial: of this machine's board; None where it shows none.
    """

    def __init__(self, directory: Path, board_serial: str | None = None) -> None:
        self._file = StateFile(directory)
        self.known = _of_this_board(self._file.load(warn=LOGGER.warning), board_serial)
        if self.known.drained_until_restart:
            self.known = replace(self.known, drained=False, drain_reason="", drained_until_restart=False)
        self._sequence = self.known.sequence_reserved
        self._dirty = True
        self.problem = ""
        """Why the state cannot be written; empty when it can."""

    def change(self, **values: Any) -> None:
        """Change fields of the state; written at the end of the cycle."""
        changed = replace(self.known, **values)
        if changed != self.known:
            self.known = changed
            self._dirty = True

    def count(self, *, restarts: int = 0, tasks: int = 0, task_failures: int = 0, reports_lost: int = 0) -> None:
        """Add to the counters."""
        known = self.known
        self.change(
            restarts=known.restarts + restarts,
            tasks=known.tasks + tasks,
            task_failures=known.task_failures + task_failures,
            reports_lost=known.reports_lost + reports_lost,
        )

    def registered(self, node_id: str) -> str | None:
        """Note a registration; return the node id before, when it is another."""
        before = self.known.node_id
        if before == node_id:
            return None
        previous = [one for one in self.known.previous_node_ids if one not in (before, node_id)]
        previous = ([before] if before else []) + previous
        self.change(node_id=node_id, previous_node_ids=tuple(previous[:MAXIMUM_PREVIOUS_NODES]))
        return before

    def next_sequence(self) -> int:
        """Return a sequence number that was never used, whatever happened in between."""
        self._sequence += 1
        if self._sequence > self.known.sequence_reserved:
            self.change(sequence_reserved=self._sequence + SEQUENCE_BLOCK)
            self.save()
        return self._sequence

    def acknowledged(self, sequence: int) -> None:
        """The server has stored reports of ours up to here; if that is ahead of us, our state was an old copy."""
        if sequence > self._sequence:
            LOGGER.warning(event("the server knows later reports of this node", ours=self._sequence, server=sequence))
            self._sequence = sequence

    def save(self) -> None:
        """Write the state if it changed. A disk that takes nothing is noted, not raised."""
        if not self._dirty:
            return
        try:
            self._file.save(self.known)
        except OSError as error:
            text = f"{self._file.path}: {error.strerror}"
            if text != self.problem:
                LOGGER.warning(event("state cannot be written", detail=text))
            self.problem = text
        else:
            self._dirty = False
            self.problem = ""


def _of_this_board(found: Remembered, board_serial: str | None) -> Remembered:
    """Return the state, or a fresh one when another board has written it; drained stays drained."""
    if board_serial is None or found.board_serial == board_serial:
        return found
    if not found.board_serial:
        return replace(found, board_serial=board_serial)
    LOGGER.warning(event("the state is a copy from another board; this one begins as a new node"))
    drained = found.drained and not found.drained_until_restart
    return replace(
        fresh(), board_serial=board_serial, drained=drained, drain_reason=found.drain_reason if drained else ""
    )
