"""The loop of a run on the server: gather cars, ask, aggregate, keep, and say at each step what is going on.

Must not import pandas or matplotlib: a run must not fail because a plot cannot be drawn.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property

import numpy as np
from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from ..errors import LASTING, AppError, Code
from ..messages import Answer, Champion, Task, pack, task_record, unpack
from ..settings import Settings
from ..trips.windows import Scaler
from . import aggregation, checkpoint, scaling, strategy
from .answers import Question, largest_answer_bytes, read_answer
from .champion import Opponent, opponent
from .fleet import Car, Exchange, Fleet, Sent, label
from .flower_limits import limit_replies
from .history import History
from .owed_answers import Owed, OwedAnswers
from .patience import Patience
from .results import RunFiles, State

log = logging.getLogger("fleven.app")

NODE_LIST_SECONDS = 0.5


class Federation:
    """One run. `run` carries it through; afterwards state, scaler, history and final tell what came of it."""

    def __init__(
        self,
        grid: Grid,
        settings: Settings,
        files: RunFiles,
        run_id: int,
        resumed: checkpoint.Checkpoint | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.settings, self.files, self.run_id = settings, files, run_id
        self.exchange = Exchange(grid, clock, sleep)
        self.fleet = Fleet()
        self.clock, self.sleep = clock, sleep
        self.history = History.of(resumed.history) if resumed else History()
        self._state = resumed.state if resumed else None
        self.scaler = resumed.scaler if resumed else None
        self.finished_rounds = resumed.round if resumed else 0
        self.final: dict[int, Answer] = {}
        self._checkpoint_due = False
        self.owed = OwedAnswers()

    @cached_property
    def opponent(self) -> Opponent | None:
        """What `champion` names."""
        return opponent(self.settings)

    @property
    def state(self) -> strategy.ServerState:
        """The model and what its strategy remembers; before the first round a network as it is initialised."""
        if self._state is None:
            from ..model import build, shared_weights  # brings torch, which the cars' first task need not wait for

            self._state = strategy.ServerState.start(shared_weights(build(self.settings), self.settings))
        return self._state

    @state.setter
    def state(self, state: strategy.ServerState) -> None:
        self._state = state

    def run(self) -> None:
        """Run every round that is left, then evaluate the final model.

        Raises AppError(too-few-nodes | quorum-lost | no-round-trained | rounds-failed | model-not-finite).
        """
        limit_replies(self.exchange.grid, largest_answer_bytes(0, 0))
        self._gather()
        if self.scaler is None:
            self.scaler = self._scaler()
        if self.settings.fit_and_evaluate:
            if not self.finished_rounds:
                self.history.begin({"round": 0, "nodes": 0, "windows": 0})
        elif self.history.unscored is not None and self.finished_rounds < self.settings.rounds:
            self._evaluate(self.finished_rounds, "evaluating the model to continue from")  # no later task will
        failed_in_a_row = 0
        for number in range(self.finished_rounds + 1, self.settings.rounds + 1):
            cars = self._cars_for(number)
            if self._round(number, cars):
                failed_in_a_row = 0
            else:
                failed_in_a_row += 1
                if failed_in_a_row >= self.settings.max_failed_rounds:
                    raise AppError(
                        Code.QUORUM_LOST,
                        f"{failed_in_a_row} rounds in a row with fewer than {self.settings.quorum_nodes} cars"
                        f"; {self.history.reasons()}",
                        "resume-from continues from the last checkpoint",
                    )
            if shortfall := self.history.shortfall(self.settings):
                raise shortfall
            self.finished_rounds = number
        if shortfall := self.history.shortfall(self.settings):  # of a checkpoint after which no round is left
            raise shortfall
        personal = self.settings.personal != "none"
        self._evaluate(
            self.finished_rounds, "final evaluation", self.settings.share_predictions, personal=personal, last=True
        )

    def _scaler(self) -> Scaler:
        """Return the fleet's scaler; cars whose statistics are unlike all others' are named, and train by it too."""
        ready = {car.node_id: car.answer for car in self.fleet.ready()}
        parts = {node_id: answer.statistics for node_id, answer in ready.items() if answer.statistics is not None}
        pooled = scaling.pool(parts, self.settings.columns, self.settings.max_share)
        for node_id, why in pooled.left_out.items():
            self._warn(0, node_id, Code.STATISTICS_LEFT_OUT, why)
        return Scaler.of(pooled.statistics)

    def _warn(self, number: int, node_id: int, code: Code, reason: str) -> None:
        """Note what a car said that was treated with caution."""
        car = self.fleet.cars[node_id]
        self.history.warn(number, node_id, car.answer, code, reason)
        log.warning(
            "event=car-doubted round=%d car=%r node_id=%d code=%s reason=%r", number, car.label, node_id, code, reason
        )

    # Gathering cars

    def _gather(self) -> None:
        """Wait for `min-nodes`, query everybody and keep those whose data can be used."""
        wanted, limit = self.settings.min_nodes, self.settings.wait_for_nodes_seconds
        self.files.status(state=State.WAITING_FOR_NODES, nodes_expected=wanted, message=f"waiting for {wanted} nodes")
        log.info("event=waiting-for-nodes wanted=%d limit_seconds=%g", wanted, limit)
        end = self.clock() + limit
        while len(online := self._online()) < wanted:
            self.files.status(nodes_replied=len(online))
            if self.clock() >= end:
                raise AppError(
                    Code.TOO_FEW_NODES,
                    f"{len(online)} of {wanted} nodes were online after {limit:g} s",
                    "start the missing cars, or lower min-nodes",
                )
            self.sleep(NODE_LIST_SECONDS)
        self.files.status(nodes_expected=len(online), nodes_replied=0, message="asking every node about its data")
        self._greet(0, online)
        # While the cars look at their data, the models are made and read.
        weights = self.state.weights.size
        _ = self.opponent
        limit_replies(self.exchange.grid, largest_answer_bytes(weights, self.settings.share_predictions))
        deadline = self.settings.query_deadline_seconds
        for sent, message in self.exchange.collect("query", 0, lambda: deadline):
            self._greeted(sent, message)
            self.files.status(nodes_replied=len(online) - len(self.exchange.waiting("query", 0)))
        self._late("query", 0, deadline)
        self.files.clients(self.history.clients)
        if len(self.fleet.ready()) < self.settings.quorum_nodes:
            raise AppError(
                Code.TOO_FEW_NODES,
                f"{len(self.fleet.ready())} of {len(online)} nodes have usable data, "
                f"{self.settings.quorum_nodes} are needed; {self.history.reasons()}",
            )

    def _online(self) -> set[int]:
        """Return who is connected and may take part: the cars of the list, where there is one."""
        online, listed = set(self.exchange.grid.get_node_ids()), self.settings.cars
        return online & listed.keys() if listed else online

    def _greet(self, number: int, online: set[int]) -> None:
        asked = {sent.node_id for sent in self.exchange.pending.values()}
        nodes = self.fleet.to_ask(online, asked)
        refused = self.exchange.send(nodes, RecordDict(), "query", number, self.settings.query_deadline_seconds)
        for node_id in refused:
            self._failed(number, node_id, "query", _not_taken())

    def _greeted(self, sent: Sent, message: Message) -> None:
        """Accept the answer to a query, whenever it arrives: that car can train from the next round on."""
        answer = read_answer(message, Question("query", self.settings))
        if self.settings.cars:  # the list's word counts, not the car's own
            answer = replace(answer, partition_id=self.settings.cars[sent.node_id])
        for node_id, outcome in self.fleet.answered(sent.node_id, answer).items():
            self.history.queried(sent.round, node_id, outcome)
            _say(replace(sent, node_id=node_id), outcome)

    def _cars_for(self, number: int) -> list[Car]:
        """Return the cars that train in this round; wait for enough of them, with a limit."""
        end = self.clock() + self.settings.wait_for_nodes_seconds
        while True:
            self._greet(number, self._online())
            for sent, message in self.exchange.pull():
                self._came_apart(sent, message)
            self._give_up_owed()
            # A car that is still at work is given nothing more to do: it would be late for ever.
            ready = [car for car in self.fleet.ready() if car.node_id not in self.owed]
            if len(ready) >= self.settings.quorum_nodes:
                chosen = strategy.sample([car.order for car in ready], self.settings, number)
                return [car for car in ready if car.order in chosen]
            if self.clock() >= end:
                raise AppError(
                    Code.QUORUM_LOST,
                    f"{len(ready)} cars are ready for round {number}, {self.settings.quorum_nodes} are needed",
                    "resume-from continues from the last checkpoint when they are back",
                )
            self.files.status(
                state=State.WAITING_FOR_NODES,
                round=number,
                nodes_expected=self.settings.quorum_nodes,
                nodes_replied=len(ready),
                message=f"round {number} waits for {self.settings.quorum_nodes} ready cars",
            )
            self.sleep(NODE_LIST_SECONDS)

    # One round

    def _round(self, number: int, cars: list[Car]) -> bool:
        """Train once with these cars; return whether a quorum answered, without which the model stays as it was."""
        started = self.clock()
        fused = self.settings.fit_and_evaluate
        answers, base, down = self._ask(number, cars, "train", evaluate=fused, pairs=0)
        if fused:
            evaluated = {node_id: answer for node_id, answer in answers.items() if "values" in answer.numbers}
            self._score(number - 1, evaluated)
        answers |= self._late_answers(number, base, answers)
        by_partition = sorted(answers, key=lambda node_id: self.fleet.cars[node_id].order)
        ordered = [answers[node_id] for node_id in by_partition]
        enough = len(ordered) >= self.settings.quorum_nodes
        weights = [self._windows(node_id, answers[node_id]) for node_id in by_partition]
        trained = {node_id: answers[node_id].weights for node_id in by_partition}
        vectors = {node_id: vector for node_id, vector in trained.items() if vector is not None}
        unlike = aggregation.scores(vectors, base)
        if enough:
            mean = self._mean(number, vectors, unlike, weights, base)
            # Add what the broadcast lost to half precision; the term is zero without compression.
            self.state = _finite(
                strategy.step(self.state, mean + (self.state.weights - base), self.settings, number), number
            )
        self.history.trained(number, answers, unlike, aggregated=enough)
        windows = sum(weights)
        losses = sum(answer.numbers["train-loss"] * weight for answer, weight in zip(ordered, weights, strict=True))
        row = {
            "round": number,
            "train_loss": losses / windows if windows else None,
            "nodes": len(ordered),
            "windows": windows,
            "seconds": self.clock() - started,
            "bytes_down": down,
            "bytes_up": sum(answer.bytes for answer in ordered),
        }
        self.history.begin(row)
        log.info(
            "event=round-finished round=%d rounds=%d nodes=%d asked=%d aggregated=%s train_loss=%s seconds=%.2f",
            number, self.settings.rounds, len(ordered), len(cars), str(enough).lower(),
            row["train_loss"], row["seconds"],
        )  # fmt: skip
        if not fused and number < self.settings.rounds:
            self._evaluate(number, f"round {number}: evaluating")
        self._keep(number, trained=enough)
        return enough

    def _windows(self, node_id: int, answer: Answer) -> float:
        """Return a car's weight: its training windows, no more than its query stated or it had the time to see."""
        windows = answer.numbers["windows-train"]
        seen = max(1, answer.numbers.get("windows-seen", windows))
        return min(windows, seen, self.fleet.cars[node_id].answer.numbers["windows-train"])

    def _mean(
        self,
        number: int,
        vectors: Mapping[int, strategy.Vector],
        unlike: Mapping[int, aggregation.Unlike],
        weights: list[float],
        base: strategy.Vector,
    ) -> strategy.Vector:
        """Return what the rule makes of the cars' weights; no change is out of all proportion, no share too large."""
        limit = self.settings.max_update_ratio
        doubts = {node_id: why for node_id, score in unlike.items() if (why := score.why(limit))}
        against = {node_id for node_id, score in unlike.items() if score.against}
        believed = strategy.without_privilege(dict(zip(vectors, weights, strict=True)), against)
        bounded = dict(
            zip(believed, strategy.bounded_weights([*believed.values()], self.settings.max_share), strict=True)
        )
        counted = bounded if self.settings.aggregation in aggregation.WEIGHTED else None
        shortened, cuts = strategy.shorten(vectors, base, limit, against, counted)
        for node_id, cut in cuts.items():
            self._warn(
                number, node_id, Code.UPDATE_CUT,
                f"its change of the weights, {cut.ratio:.3g} times as long as the median, was cut to "
                f"{cut.limit:.3g} times",
            )  # fmt: skip
        for node_id, why in doubts.items():
            self._warn(number, node_id, Code.UPDATE_SUSPICIOUS, why)
        return aggregation.combine(shortened, list(bounded.values()), base, self.settings)

    def _evaluate(
        self, number: int, message: str, pairs: int = 0, *, personal: bool = False, last: bool = False
    ) -> None:
        """Have every ready car evaluate the global model, and make its own of it if that is wanted.

        last: whether the model in use is scored on the same windows, too.
        """
        champion = self.opponent.champion if last and self.opponent is not None else None
        self._greet(number, self._online())
        self.files.status(message=message)
        # In the end everybody is asked; before that, nobody who is still at work.
        cars = [car for car in self.fleet.ready() if last or car.node_id not in self.owed]
        self.final, _, _ = self._ask(
            number, cars, "evaluate", evaluate=True, pairs=pairs, personal=personal, champion=champion
        )
        self._score(number, self.final)
        self.files.rounds(self._all_rounds())
        self.files.clients(self.history.clients)

    def _ask(
        self,
        number: int,
        cars: list[Car],
        kind: str,
        *,
        evaluate: bool,
        pairs: int,
        personal: bool = False,
        champion: Champion | None = None,
    ) -> tuple[dict[int, Answer], strategy.Vector, int]:
        """Send one task to these cars; return the good answers by node id, the weights as the cars saw them, bytes."""
        assert self.scaler is not None  # noqa: S101  # set by run() before the first task
        compression = self.settings.update_compression
        base = unpack(pack(self.state.weights, None, compression), None, compression)
        pairs = pairs if kind == "evaluate" else 0
        task = Task(number, evaluate, self.state.weights, self.scaler, compression, pairs, personal, champion)
        record, size = task_record(task)
        question = Question(kind, self.settings, evaluate, pairs, personal, champion is not None, base)
        deadline = self.settings.round_deadline_seconds
        nodes = [car.node_id for car in cars]
        self.files.status(
            state=State.RUNNING,
            round=number,
            nodes_expected=len(nodes),
            nodes_replied=0,
            **({} if kind == "evaluate" else {"message": f"round {number} of {self.settings.rounds}"}),
        )
        for node_id in self.exchange.send(nodes, record, kind, number, deadline):
            self._failed(number, node_id, kind, _not_taken())
        answers: dict[int, Answer] = {}
        began, took = self.clock(), list[float]()
        settings = self.settings
        patience = Patience(
            settings.straggler_patience, settings.straggler_floor_seconds, deadline, settings.quorum_nodes
        )
        for sent, message in self.exchange.collect(kind, number, lambda: patience.seconds(took, len(nodes))):
            if (sent.kind, sent.round) != (kind, number):
                self._came_apart(sent, message)
                continue
            car = self.fleet.cars[sent.node_id]
            answer = read_answer(message, replace(question, partition_id=car.claim, counts=car.answer.numbers))
            if answer.ok:
                answers[sent.node_id] = answer
                took.append(self.clock() - began)
                car.trained |= kind == "train"
            else:
                self._failed(number, sent.node_id, kind, answer)
            _say(sent, answer)
            self.files.status(nodes_replied=len(nodes) - len(self.exchange.waiting(kind, number)))
        if self.clock() < began + deadline:
            self._go_on_without(kind, number, question, began + deadline)
        self._late(kind, number, deadline)
        return answers, base, size * len(nodes)

    def _go_on_without(self, kind: str, number: int, question: Question, until: float) -> None:
        """Leave the cars that have not answered at work: they are asked again when they have."""
        for node_id in self.exchange.waiting(kind, number):
            car = self.fleet.cars[node_id]
            known = replace(question, partition_id=car.claim, counts=car.answer.numbers)
            self.owed.add(Owed(Sent(node_id, kind, number), known, until))
            reason = "the round went on without it, as it took much longer than the others"
            self._failed(number, node_id, kind, Answer(error_code=Code.ANSWER_LATE, error_reason=reason))

    def _give_up_owed(self) -> None:
        """Wait no longer for what is owed beyond its deadline: such a car is asked about itself first."""
        for sent in self.owed.expired(self.clock()):
            self.exchange.forget(sent.kind, sent.round, sent.node_id)
            self.fleet.silent(sent.node_id)

    def _came_apart(self, sent: Sent, message: Message) -> None:
        """Take an answer that no round waits for: to a query, or to a task that its round has gone on without."""
        if sent.kind == "query":
            self._greeted(sent, message)
            return
        question = self.owed.settle(sent)
        if question is None:
            return
        answer = read_answer(message, question)
        _say(sent, answer)
        if not answer.ok:
            self._failed(sent.round, sent.node_id, sent.kind, answer)
        elif answer.weights is not None and question.base is not None:
            self.fleet.cars[sent.node_id].trained = True
            self.owed.keep(sent.node_id, answer, question.base)

    def _late_answers(self, number: int, base: strategy.Vector, answers: Mapping[int, Answer]) -> dict[int, Answer]:
        """Return what came too late for an earlier round and counts in this one.

        Only a mean can take it: rules that look for outliers would take it for one.
        """
        found = self.owed.take_late(answers, base)
        if self.settings.aggregation != "mean":
            return {}
        for node_id in found:
            log.info("event=late-answer-used round=%d car=%r", number, self.fleet.cars[node_id].label)
        return found

    def _late(self, kind: str, number: int, deadline_seconds: float) -> None:
        for node_id in self.exchange.waiting(kind, number):
            if self.owed.is_owed(Sent(node_id, kind, number)):
                continue
            self.exchange.forget(kind, number, node_id)
            reason = f"no answer within {deadline_seconds:g} s"
            self._failed(number, node_id, kind, Answer(error_code=Code.DEADLINE_PASSED, error_reason=reason))
            self.fleet.silent(node_id)

    def _failed(self, number: int, node_id: int, kind: str, answer: Answer) -> None:
        known = self.fleet.cars[node_id].answer
        if answer.partition_id is None:
            answer = replace(answer, partition_id=known.partition_id, node_name=known.node_name)
        self.history.failed(number, node_id, kind, answer)
        log.warning(
            "event=car-failed round=%d car=%r node_id=%d partition_id=%s code=%s reason=%r",
            number, label(answer.node_name, answer.partition_id, node_id), node_id, answer.partition_id,
            answer.error_code, answer.error_reason,
        )  # fmt: skip
        if answer.error_code in LASTING:
            self.fleet.exclude(node_id)
        elif answer.error_code in (Code.NODE_UNAVAILABLE, Code.REPLY_INVALID):  # asked about itself again
            self.fleet.silent(node_id)

    def _score(self, number: int, answers: dict[int, Answer]) -> None:
        """Note what these cars found of round `number`'s model."""
        if not answers:
            return
        score = self.history.scored(number, answers)
        log.info("event=evaluated round=%d rmse=%s mae=%s r2=%s", number, score.rmse, score.mae, score.r2)

    def _all_rounds(self) -> list[dict[str, object]]:
        return [*self.history.rounds, *([self.history.unscored] if self.history.unscored else [])]

    def _keep(self, number: int, *, trained: bool) -> None:
        """Write the tables, and a checkpoint when it is time; the last round always leaves one.

        A round without a quorum leaves none, since a run that is continued has it still to do: the next one does.
        """
        self.files.rounds(self.history.rounds)
        self.files.clients(self.history.clients)
        every = self.settings.save_checkpoint_every
        self._checkpoint_due |= bool(every) and (number % every == 0 or number == self.settings.rounds)
        if self._checkpoint_due and trained:
            self.save_checkpoint(number)
            self._checkpoint_due = False

    def save_checkpoint(self, number: int) -> None:
        """Write the state after round `number`."""
        assert self.scaler is not None  # noqa: S101  # set by run() before the first round
        kept = checkpoint.Checkpoint(number, self.state, self.scaler, self.history.plain())
        checkpoint.save(self.files.checkpoint_path(number), kept, self.settings, self.run_id)


def _finite(state: strategy.ServerState, number: int) -> strategy.ServerState:
    """Return the state. Raises AppError(model-not-finite): such a model predicts nothing, and no round repairs it."""
    if not all(np.isfinite(part).all() for part in (state.weights, state.momentum, state.variance)):
        raise AppError(
            Code.MODEL_NOT_FINITE,
            f"round {number} made a model with numbers that are not finite; the one before it is kept",
            "lower server-learning-rate, or raise server-tau",
        )
    return state


def _not_taken() -> Answer:
    return Answer(error_code=Code.MESSAGE_UNAVAILABLE, error_reason="the SuperLink did not take the message")


def _say(sent: Sent, answer: Answer) -> None:
    log.info(
        "event=answer round=%d kind=%s node_id=%d partition_id=%s ok=%s code=%s seconds=%s",
        sent.round, sent.kind, sent.node_id, answer.partition_id, str(answer.ok).lower(), answer.error_code or "-",
        np.round(answer.numbers.get("seconds", 0.0), 3),
    )  # fmt: skip
