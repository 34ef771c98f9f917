"""Coded errors of the Flower app, shared by the car's side and the server's. Imports the standard library only."""

# A family of its own beside fleven_agent.common.errors: the app travels to the cars alone and may import neither side.

from enum import StrEnum


class Code(StrEnum):
    """Why something went wrong. The values are stored in results and matched by the scheduler: they never change."""

    # The run as a whole.
    SETTINGS_INVALID = "settings-invalid"
    RESUME_INVALID = "resume-invalid"
    BUNDLE_INVALID = "bundle-invalid"
    TOO_FEW_NODES = "too-few-nodes"
    QUORUM_LOST = "quorum-lost"
    NO_ROUND_TRAINED = "no-round-trained"
    ROUNDS_FAILED = "rounds-failed"
    MODEL_NOT_FINITE = "model-not-finite"
    INTERNAL = "internal"
    # One car's data: the car is left out of the run, by name.
    PARTITION_UNKNOWN = "partition-unknown"
    PARTITION_DUPLICATE = "duplicate-partition"
    DATA_MISSING = "data-missing"
    DATA_EMPTY = "data-empty"
    DATA_UNREADABLE = "data-unreadable"
    COLUMN_MISSING = "column-missing"
    COLUMN_NOT_NUMERIC = "column-not-numeric"
    VALUES_OUT_OF_RANGE = "values-out-of-range"
    TRIPS_TOO_FEW = "trips-too-few"
    WINDOWS_TOO_FEW = "windows-too-few"
    # One car's task: the car is asked again in the next round.
    TASK_FAILED = "task-failed"
    TRAINING_DIVERGED = "training-diverged"
    REPLY_INVALID = "reply-invalid"
    UPDATE_CUT = "update-cut"
    UPDATE_SUSPICIOUS = "update-suspicious"
    STATISTICS_LEFT_OUT = "statistics-left-out"
    DEADLINE_PASSED = "deadline-passed"
    ANSWER_LATE = "answer-late"
    APP_NOT_LOADED = "app-not-loaded"
    APP_RAISED = "app-raised"
    APP_CRASHED = "app-crashed"
    FAB_INVALID = "fab-invalid"
    MESSAGE_UNAVAILABLE = "message-unavailable"
    NODE_UNAVAILABLE = "node-unavailable"
    FLOWER_ERROR = "flower-error"


#: Codes that the same car would only repeat: asking again does not change its files.
LASTING = frozenset(
    {
        Code.PARTITION_UNKNOWN,
        Code.PARTITION_DUPLICATE,
        Code.DATA_MISSING,
        Code.DATA_EMPTY,
        Code.DATA_UNREADABLE,
        Code.COLUMN_MISSING,
        Code.COLUMN_NOT_NUMERIC,
        Code.VALUES_OUT_OF_RANGE,
        Code.TRIPS_TOO_FEW,
        Code.WINDOWS_TOO_FEW,
        Code.SETTINGS_INVALID,
    }
)

#: Codes with which a car itself answers; all others are the server's or Flower's word on it.
CAR_CODES = (LASTING - {Code.PARTITION_DUPLICATE}) | {Code.TASK_FAILED, Code.TRAINING_DIVERGED, Code.REPLY_INVALID}


class AppError(Exception):
    """A mistake, or a circumstance, that the operator can act on; never a bug.

    `hint` says what to do next; `exit_code` is that of a program which ends because of it.
    """

    exit_code = 1

    def __init__(self, code: Code, message: str, hint: str = "") -> None:
        self.code = code
        self.message = message
        self.hint = hint
        super().__init__(f"{code}: {message}" + (f" ({hint})" if hint else ""))

    @property
    def reason(self) -> str:
        """Message and hint in one line, without the code."""
        return self.message + (f" ({self.hint})" if self.hint else "")

    def plain(self) -> dict[str, str]:
        """Return code, message and hint as the files of a run have them."""
        return {"code": str(self.code), "message": self.message, "hint": self.hint}


class SettingsError(AppError):
    """The run configuration is wrong; the message lists every problem."""

    exit_code = 78

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__(Code.SETTINGS_INVALID, "; ".join(problems))


class DataError(AppError):
    """This car's data cannot be used."""
