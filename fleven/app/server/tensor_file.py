"""Tensors and plain values in one file that is only read, and never run: safetensors, with JSON in its header.

Version 0.1.0 wrote pickles. Reading one can run what somebody has put into it, on some versions of torch even with
`weights_only`; so one is read only where nobody but this user and root can have written it. Must not import flwr or
pandas.
"""

import json
import logging
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..errors import AppError, Code
from ..files import write_atomically

log = logging.getLogger("fleven.app")

SUFFIX = ".safetensors"
SCHEMA_VERSION = 2
#: What 0.1.0 wrote, and its schema.
PICKLE_SUFFIX, PICKLE_SCHEMA_VERSION = ".pt", 1
#: The one entry of the header, whose values are texts.
ENTRY = "fleven"
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Content:
    """What a file holds. plain: JSON's kinds of values."""

    tensors: Mapping[str, Array]
    plain: Mapping[str, Any]


def write(path: Path, kind: str, tensors: Mapping[str, Array], plain: Mapping[str, Any], *, mode: int = 0o644) -> None:
    """Write a file, whole or not at all. Raises TypeError for plain values that JSON does not have."""
    text = json.dumps({"kind": kind, "schema_version": SCHEMA_VERSION} | dict(plain))
    data = save({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, {ENTRY: text})
    with write_atomically(path, mode) as stream:
        stream.write(data)


def read(path: Path, kind: str, code: Code) -> Content:
    """Read what `write`, or 0.1.0, has written. Raises AppError(code) for any other file."""
    try:
        with path.open("rb") as stream:
            zipped = stream.read(4) == b"PK\x03\x04"
        content = _unpickle(path, code) if zipped else _read(path)
    except FileNotFoundError:
        raise AppError(code, f"{path}: no such file") from None
    except OSError as error:
        raise AppError(code, f"{path}: {error.strerror or error}") from None
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise AppError(code, f"{path}: cannot be read: {first[:200]}") from None
    if content.plain.get("kind") != kind:
        raise AppError(code, f"{path}: is not a {kind}")
    version, known = content.plain.get("schema_version"), PICKLE_SCHEMA_VERSION if zipped else SCHEMA_VERSION
    if version != known:
        raise AppError(code, f"{path}: has version {version}, this program reads {known}")
    return content


def _read(path: Path) -> Content:
    with safe_open(path, framework="numpy") as opened:
        plain = json.loads((opened.metadata() or {})[ENTRY])
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # it is no dictionary
    if not isinstance(plain, dict):
        raise ValueError("its header is not an object")  # noqa: TRY004  # the content is wrong, not an argument
    return Content(tensors, plain)


def _unpickle(path: Path, code: Code) -> Content:
    """Read a file of 0.1.0 that is our own."""
    import torch

    status = path.stat()
    if status.st_uid not in (os.geteuid(), 0) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise AppError(
            code,
            f"{path}: is a file of version 0.1.0 that another user may have written",
            "such a file can run code when it is read; train again, or make it your own if you trust it",
        )
    log.warning("event=old-format-read path=%s reason='a pickle of version 0.1.0; new files are safetensors'", path)
    try:
        payload = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # what torch raises for a pickle depends on what the bytes happen to say
        raise ValueError(str(error)) from None
    if not isinstance(payload, dict):
        raise ValueError("holds no dictionary")  # noqa: TRY004  # the content is wrong, not an argument
    tensors = {str(name): value.numpy() for name, value in payload.items() if isinstance(value, torch.Tensor)}
    return Content(tensors, {str(name): value for name, value in payload.items() if str(name) not in tensors})
