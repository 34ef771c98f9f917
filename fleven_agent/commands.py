"""Commands of the control socket, carried out by the loop: the socket's thread hands over and waits.

Imports control's words and the errors.
"""

from collections.abc import Callable, Mapping
from queue import Empty, SimpleQueue
from typing import Any

from fleven_agent.errors import AgentError, UsageError
from fleven_agent.journal import LOGGER, event
from fleven_agent.memory import Memory

Answer = Mapping[str, Any]
ANSWER_SECONDS = 8.0


class Commands:
    """The way of a command from the socket's thread to the loop and of its answer back.

    Args:
        wake: wakes the loop.
        memory: keeps a drain across reboots.
        status: returns what `status` shows.
        restart: restarts SuperNode, after the current task or at once; returns the new state, and whether it restarts.
    """

    def __init__(
        self,
        wake: Callable[[], None],
        memory: Memory,
        status: Callable[[], dict[str, Any]],
        restart: Callable[[bool], tuple[str, bool]],
    ) -> None:
        self._wake, self._memory, self._status, self._restart = wake, memory, status, restart
        self._queue: SimpleQueue[tuple[str, Answer, SimpleQueue[Answer | AgentError]]] = SimpleQueue()

    def hand_over(self, command: str, arguments: Answer) -> Answer:
        """Ask the loop; called from the socket's thread.

        Raises:
            AgentError: the loop refuses, or does not answer.
        """
        answer: SimpleQueue[Answer | AgentError] = SimpleQueue()
        self._queue.put((command, arguments, answer))
        self._wake()
        try:
            result = answer.get(timeout=ANSWER_SECONDS)
        except Empty:
            raise AgentError("the agent's loop does not answer", hint="see its journal") from None
        if isinstance(result, AgentError):
            raise result
        return result

    def work_off(self) -> None:
        """Carry out what has come; called from the loop."""
        while True:
            try:
                command, arguments, answer = self._queue.get_nowait()
            except Empty:
                return
            try:
                answer.put(self._carry_out(command, arguments))
            except AgentError as error:
                answer.put(error)

    def _carry_out(self, command: str, arguments: Answer) -> Answer:
        match command:
            case "ping":
                return {}
            case "status":
                return {"status": self._status()}
            case "drain":
                reason = str(arguments.get("reason") or "")[:1_000]
                return self._drain(reason, until_restart=arguments.get("until_restart") is True)
            case "undrain":
                return self._undrain()
            case "restart":
                state, restarting = self._restart(bool(arguments.get("now")))
                return {"state": state, "restarting": restarting}
            case _:
                raise UsageError(f"unknown command {command!r}", hint="the agent may be older than this program")

    def _drain(self, reason: str, *, until_restart: bool) -> Answer:
        known = self._memory.known
        # A drain that is to last is not shortened, and keeps its reason.
        if not (until_restart and known.drained and not known.drained_until_restart):
            self._memory.change(drained=True, drain_reason=reason, drained_until_restart=until_restart)
            self._memory.save()
        LOGGER.info(event("drained", reason=reason))
        return {"state_problem": self._memory.problem}

    def _undrain(self) -> Answer:
        by_server = self._memory.known.drained_by_server
        self._memory.change(drained=False, drain_reason="", drained_until_restart=False)
        self._memory.save()
        LOGGER.info("undrained")
        return {"drained_by_server": by_server, "state_problem": self._memory.problem}
