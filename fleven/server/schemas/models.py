"""The one JSON form of a model's version: answers of the fleet API and the pages. Must not import FastAPI or typer."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fleven.server.models.model import ModelVersion
from fleven.server.schemas.nodes import Answer


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
        promotion=model.facts.get("promotion"),
        facts={key: value for key, value in model.facts.items() if key != "promotion"},
    )
