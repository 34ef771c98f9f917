"""What has happened in a run so far: the rows of its tables, and what they come to at the end. Pure."""

import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import AppError, Code
from ..messages import Answer
from ..settings import Settings
from .aggregation import Unlike
from .fleet import Car, label
from .scores import Score

Row = dict[str, Any]
#: How many cars, and how much of each one's reason, the text of a run's error has room for.
REASONS_IN_TEXT = 8
REASON_CHARACTERS = 200


def personal_row(answer: Answer) -> Row:
    """Return how well a car's own model does, as the tables have it; without values where it made none."""
    numbers = answer.numbers
    made = "personal-kept" in numbers
    figures = (Score.of(numbers, "personal-") if made else Score()).row()
    kept = bool(numbers["personal-kept"]) if made else None
    return {f"personal_{name}": value for name, value in figures.items()} | {"personal_kept": kept}


def champion_row(answer: Answer) -> Row:
    """Return how well the model in use does on a car's held-out windows; without values where it was not asked."""
    asked = "champion-squared-error" in answer.numbers
    figures = (Score.of(answer.numbers, "champion-") if asked else Score()).row()
    return {f"champion_{name}": value for name, value in figures.items()}


@dataclass
class History:
    """rounds: finished rows, by round. unscored: the row of the last round, until its model has been evaluated.

    contributions: round → partition-ids of the cars whose training is in its model. warnings: a row for each car and
    code for what was taken from it with care, with the rounds.
    """

    rounds: list[Row] = field(default_factory=list)
    unscored: Row | None = None
    clients: list[Row] = field(default_factory=list)
    contributions: dict[int, list[int]] = field(default_factory=dict)
    warnings: list[Row] = field(default_factory=list)

    def plain(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return asdict(self)

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> "History":
        """Return the history that `plain` gave, also after JSON, whose keys are texts."""
        contributions = {int(number): cars for number, cars in plain["contributions"].items()}
        return cls(**{**plain, "contributions": contributions})

    def begin(self, row: Row) -> None:
        """Note the row of a new model; the one before it stays without a score if nobody has evaluated its model."""
        if self.unscored is not None:
            self.rounds.append(self.unscored)
        self.unscored = row

    def scored(self, number: int, answers: Mapping[int, Answer]) -> Score:
        """Note the evaluation of round `number`'s model by these cars (by node id); return the fleet's score."""
        fleet = Score()
        for node_id, answer in sorted(answers.items(), key=lambda item: item[1].partition_id or 0):
            score = Score.of(answer.numbers)
            fleet = fleet.merge(score)
            row = (
                self._row(number, node_id, "evaluate", answer)
                | score.row()
                | personal_row(answer)
                | champion_row(answer)
            )
            if answer.weights is not None:  # it trained in the same task: that row has all that is not here
                row |= {"seconds": answer.numbers.get("evaluate-seconds"), "cpu_seconds": None, "bytes_up": None}
            self.clients.append(row)
        if self.unscored is not None and self.unscored["round"] == number:
            self.rounds.append(self.unscored | fleet.row())
            self.unscored = None
        return fleet

    def trained(
        self,
        number: int,
        answers: Mapping[int, Answer],
        unlike: Mapping[int, Unlike] | None = None,
        *,
        aggregated: bool = True,
    ) -> None:
        """Note one round's training, by node id, and whether it went into the round's model.

        unlike: how each car's change of the weights compares with the others'.
        """
        for node_id, answer in sorted(answers.items(), key=lambda item: item[1].partition_id or 0):
            row = self._row(number, node_id, "train", answer)
            row["seconds"] = answer.numbers.get("seconds", 0.0) - answer.numbers.get("evaluate-seconds", 0.0)
            if unlike and node_id in unlike:
                score = unlike[node_id]
                row |= {"update_norm_ratio": score.norm_ratio, "update_cosine": score.cosine}
            self.clients.append(row)
        self.contributions[number] = sorted(
            answer.partition_id for answer in answers.values() if aggregated and answer.partition_id is not None
        )

    def failed(self, number: int, node_id: int, phase: str, answer: Answer) -> None:
        """Note that a car did not do what it was asked."""
        self.clients.append(self._row(number, node_id, phase, answer))

    def queried(self, number: int, node_id: int, answer: Answer) -> None:
        """Note a car's answer to the query with which it joins."""
        self.clients.append(self._row(number, node_id, "query", answer))

    def warn(self, number: int, node_id: int, answer: Answer, code: Code, reason: str) -> None:
        """Note what a car said that was treated with caution; the newest reason of a code stands."""
        row = next((row for row in self.warnings if (row["node_id"], row["code"]) == (str(node_id), code)), None)
        if row is None:
            row = {
                "partition_id": answer.partition_id,
                "node_id": str(node_id),
                "node_name": answer.node_name,
                "code": str(code),
                "rounds": [],
            }
            self.warnings.append(row)
        row["reason"] = reason
        row["rounds"].append(number)

    @staticmethod
    def _row(number: int, node_id: int, phase: str, answer: Answer) -> Row:
        numbers = answer.numbers
        return {
            "round": number,
            "node_id": str(node_id),
            "partition_id": answer.partition_id,
            "node_name": answer.node_name,
            "phase": phase,
            "ok": answer.ok,
            "error_code": str(answer.error_code),
            "error_reason": answer.error_reason,
            "train_loss": numbers.get("train-loss") if phase == "train" else None,
            "gradient_norm": numbers.get("gradient-norm") if phase == "train" else None,
            "rows": numbers.get("rows"),
            "windows_train": numbers.get("windows-train"),
            "windows_test": numbers.get("windows-test"),
            "seconds": numbers.get("seconds"),
            "cpu_seconds": numbers.get("cpu-seconds"),
            "peak_rss_bytes": numbers.get("peak-rss-bytes"),
            "bytes_up": answer.bytes,
            "threads": numbers.get("threads"),
        }

    def cars(self, final: Mapping[int, Answer], known: Mapping[int, Car]) -> list[Row]:
        """Return one row for each car that took part, with the score of the final model on it where it answered."""
        rows = []
        partitions = {partition for round_ in self.contributions.values() for partition in round_}
        partitions |= {answer.partition_id for answer in final.values() if answer.partition_id is not None}
        by_partition = {answer.partition_id: (node_id, answer) for node_id, answer in final.items()}
        # A duplicate gave the same partition-id, with an error: the car that takes part comes last and stands.
        by_worth = sorted(known.values(), key=lambda car: car.answer.ok)
        nodes = {car.partition_id: car.node_id for car in by_worth}
        joined = {car.partition_id: car.answer for car in by_worth}
        for partition in sorted(partitions):
            node_id, answer = by_partition.get(partition) or (
                nodes.get(partition, 0),
                joined.get(partition, Answer(partition)),
            )
            score = Score.of(answer.numbers) if partition in by_partition else Score()
            own = [row for row in self.clients if row["partition_id"] == partition and row["phase"] != "query"]
            contributed = sum(partition in ids for ids in self.contributions.values())
            rows.append(
                {
                    "partition_id": partition,
                    "node_id": str(node_id),
                    "node_name": answer.node_name,
                    **score.row(),
                    **personal_row(answer if partition in by_partition else Answer()),
                    **champion_row(answer if partition in by_partition else Answer()),
                    "rows": answer.numbers.get("rows"),
                    "windows_train": answer.numbers.get("windows-train"),
                    "windows_test": answer.numbers.get("windows-test"),
                    "seconds": sum(row["seconds"] or 0.0 for row in own),
                    "rounds_contributed": contributed,
                    "update_suspicious": self._suspicious(partition, contributed),
                    "skipped_files": joined[partition].skipped_files if partition in joined else [],
                    "versions": joined[partition].versions if partition in joined else "",
                }
            )
        return rows

    @staticmethod
    def personal(final: Mapping[int, Answer], settings: Settings) -> Row | None:
        """Return how well the cars' own models do together, and how many cars kept theirs; None where none was made.

        A car that found none better than the global model counts with that.
        """
        made = [answer for _, answer in sorted(final.items()) if "personal-kept" in answer.numbers]
        if not made:
            return None
        score = Score()
        for answer in made:
            score = score.merge(Score.of(answer.numbers, "personal-"))
        kept = sum(answer.numbers["personal-kept"] == 1 for answer in made)
        return {"kind": settings.personal, **score.row(), "cars": len(made), "kept": kept}

    @staticmethod
    def champion(final: Mapping[int, Answer]) -> Row | None:
        """Return how well the model in use does on all held-out windows together; None where no car was asked."""
        asked = [answer for _, answer in sorted(final.items()) if "champion-squared-error" in answer.numbers]
        if not asked:
            return None
        score = Score()
        for answer in asked:
            score = score.merge(Score.of(answer.numbers, "champion-"))
        return {**score.row(), "cars": len(asked)}

    def _suspicious(self, partition: int, contributed: int) -> bool:
        """Return whether a car's changes were suspicious in half of its rounds or more: once is chance."""
        rounds = {
            number
            for row in self.warnings
            if (row["partition_id"], row["code"]) == (partition, Code.UPDATE_SUSPICIOUS)
            for number in row["rounds"]
        }
        return contributed > 0 and 2 * len(rounds) >= contributed

    def excluded(self) -> list[Row]:
        """Return one row for each car and reason for all that did not happen, with the rounds (0: before round 1)."""
        found: dict[tuple[str, str], Row] = {}
        for row in self.clients:
            if row["ok"]:
                continue
            entry = found.setdefault(
                (row["node_id"], row["error_code"]),
                {
                    "partition_id": row["partition_id"],
                    "node_id": row["node_id"],
                    "node_name": row["node_name"],
                    "error_code": row["error_code"],
                    "reason": row["error_reason"],
                    "rounds": [],
                },
            )
            if row["round"] not in entry["rounds"]:
                entry["rounds"].append(row["round"])
        return list(found.values())

    def reasons(self) -> str:
        """Return why cars did not do what they were asked last, as one text: "n3: data-missing: no such folder"."""
        newest = {label(row["node_name"], row["partition_id"], row["node_id"]): row for row in self.clients}
        failed = sorted(((name, row) for name, row in newest.items() if not row["ok"]), key=lambda item: item[0])
        texts = []
        for name, row in failed[:REASONS_IN_TEXT]:
            reason = f"{row['error_code']}: {row['error_reason']}"
            texts.append(f"{name}: " + textwrap.shorten(reason, REASON_CHARACTERS, placeholder=" …"))
        if len(failed) > REASONS_IN_TEXT:
            texts.append(f"and {len(failed) - REASONS_IN_TEXT} more cars")
        return "; ".join(texts)

    def lost_rounds(self) -> list[int]:
        """Return the rounds without contributions: too few cars gave a good answer."""
        return [number for number, cars in self.contributions.items() if not cars]

    def last_word(self) -> str:
        """Return what a run that succeeded says of itself."""
        lost = len(self.lost_rounds())
        return f"{lost} round{'s' * (lost != 1)} lost: too few cars" if lost else "finished"

    def shortfall(self, settings: Settings) -> AppError | None:
        """Return why the rounds so far cannot become a success, or None while they can.

        A run succeeds with a model that its last round trained, with a quorum, and with no more than
        `max-failed-share` of its rounds lost. A round without contributions is lost.
        """
        lost = self.lost_rounds()
        ended_with_a_loss = settings.rounds in lost
        if not ended_with_a_loss and len(lost) <= settings.max_failed_share * settings.rounds:
            return None
        good = f"{settings.quorum_nodes} good answer{'s' if settings.quorum_nodes > 1 else ''}"
        why = f"; {reasons}" if (reasons := self.reasons()) else ""
        if len(lost) == len(self.contributions):
            return AppError(
                Code.NO_ROUND_TRAINED, f"none of {len(lost)} rounds had {good}, so there is no trained model{why}"
            )
        what = (
            f"the last round, {settings.rounds}, had fewer than {good}"
            if ended_with_a_loss
            else f"{len(lost)} of {settings.rounds} rounds had fewer than {good}"
        )
        return AppError(
            Code.ROUNDS_FAILED,
            f"{what}; the model is that of round {max(set(self.contributions) - set(lost))}{why}",
            "resume-from continues from the last checkpoint; max-failed-share says how many rounds may be lost",
        )
