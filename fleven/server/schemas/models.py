"""The one JSON form of a model's version: answers of the fleet API and the pages. Must not import FastAPI or typer."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fleven.server.models.model import ModelVersion
from fleven.server.schemas.nodes import Answer


class NameAnswer(Answer):
    """A name that a version has now."""

    alias: str
    since: datetime
    reason: str
    """Why the champion was chosen at that moment; empty where nobody said."""
    text: str


class ModelAnswer(Answer):
    """One version of an experiment's model."""

    name: str
    experiment: str
    version: int
    run_id: int | None
    made_at: datetime
    sha256: str
    aliases: list[str]
    standing: str
    """What it is: champion, previous, or candidate."""
    names: list[NameAnswer]
    """Since when it has each of its names, and the reason that was given."""
    promotion: dict[str, Any] | None
    """What was decided at the end of its run: `code`, `promoted`, `message`, `gain`, `losers`; null for nothing."""
    facts: dict[str, Any]
    """Figures, data, configuration and lineage."""


class ModelsAnswer(Answer):
    """Versions of models."""

    server_time: datetime
    models: list[ModelAnswer]


def model_answer(model: ModelVersion) -> ModelAnswer:
    """Return a version as JSON."""
    return ModelAnswer(
        name=model.name,
        experiment=model.experiment,
        version=model.version,
        run_id=model.run_id,
        made_at=model.made_at,
        sha256=model.sha256,
        aliases=[alias.value for alias in model.aliases],
        standing=model.standing,
        names=[
            NameAnswer(alias=name.alias.value, since=name.since, reason=name.reason, text=text)
            for name, text in zip(model.names, model.names_told, strict=True)
        ],
        promotion=model.facts.get("promotion"),
        facts={key: value for key, value in model.facts.items() if key != "promotion"},
    )
