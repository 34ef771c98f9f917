"""What a launcher asks of the warm process: one task, as it would have been started from there.

Pure: bytes to a frozen value, and the question whether a fork of this process can be that task. Imports the standard
library only. The launcher writes the same fields by hand, since it must start fast.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

MAXIMUM_BYTES = 16 * (1 << 20)  # more than Linux takes as arguments and environment together (a quarter of the stack)

# Variables that are read when a library is loaded or Python starts, so that setting them after a fork comes too late.
READ_AT_START = (
    "FLWR_",
    "OMP_",
    "GOMP_",
    "KMP_",
    "MKL_",
    "OPENBLAS_",
    "BLIS_",
    "NUMEXPR_",
    "NPY_",
    "TORCH",
    "PYTORCH",
    "ATEN_",
    "CUDA_",
    "GRPC_",
    "PYTHON",
    "LD_",
    "MALLOC_",
    "GLIBC_TUNABLES",
    "ARROW_",
    "JE_ARROW_",
    "LANG",
    "LC_",
    "HOME",
    "VIRTUAL_ENV",
)


class RequestError(ValueError):
    """The bytes are not a request."""


@dataclass(frozen=True, slots=True)
class Request:
    """One task as the launcher saw its own process."""

    program: str
    """Path of Flower's own ``flwr-clientapp``, which the task runs."""
    folder: str
    umask: int
    ignored_signals: tuple[int, ...]
    blocked_signals: tuple[int, ...]
    processors: tuple[int, ...]
    niceness: int
    limits: tuple[tuple[int, int], ...]
    """Soft and hard limit of each resource, by its number."""
    arguments: tuple[str, ...]
    environment: dict[str, str]


def parse_request(body: bytes) -> Request:
    """Return the request in ``body`` (NUL-separated fields); raises ``RequestError``."""
    fields = [os.fsdecode(field) for field in body.split(b"\0")]
    try:
        program, folder, umask, ignored, blocked, processors, niceness, limits, count = fields[:9]
        numbers = [int(number) for number in limits.split()]
        split = 9 + int(count)
        pairs = [field.partition("=") for field in fields[split:]]
        request = Request(
            program=program,
            folder=folder,
            umask=int(umask),
            ignored_signals=tuple(int(number) for number in ignored.split()),
            blocked_signals=tuple(int(number) for number in blocked.split()),
            processors=tuple(int(number) for number in processors.split()),
            niceness=int(niceness),
            limits=tuple(zip(numbers[::2], numbers[1::2], strict=True)),
            arguments=tuple(fields[9:split]),
            environment={name: value for name, sign, value in pairs if sign},
        )
    except ValueError as error:
        raise RequestError(str(error)) from error
    if len(request.arguments) != split - 9:
        raise RequestError(f"{split - 9} arguments promised, {len(request.arguments)} sent")
    return request


def differing_variables(wanted: Mapping[str, str], at_start: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return the variables read at start whose value in ``wanted`` this process never had.

    Two values are as good as each other: the one at start, and the one that an imported module has set since, for a
    new process would import that module too (Flower sets GRPC_VERBOSITY so).
    """
    names = {name for name in (*wanted, *at_start, *now) if name.startswith(READ_AT_START)}
    return sorted(name for name in names if wanted.get(name) not in (at_start.get(name), now.get(name)))
