"""The car's side: imports what a training app imports, and sends back what it got."""

import numpy
import pandas  # noqa: F401 - its import is a part of what is measured
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Return the weights untouched."""
    arrays = message.content.array_records["arrays"]
    weights = torch.from_numpy(numpy.concatenate([part.ravel() for part in arrays.to_numpy_ndarrays()]))
    metrics = MetricRecord({"num-examples": 1, "sum": float(weights.sum())})
    return Message(
        RecordDict({"arrays": ArrayRecord(arrays.to_numpy_ndarrays()), "metrics": metrics}), reply_to=message
    )


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Return a metric that needs no data."""
    return Message(RecordDict({"metrics": MetricRecord({"num-examples": 1, "loss": 0.0})}), reply_to=message)
