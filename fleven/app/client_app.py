"""Flower's entry point on a car: turns messages into instructions and answers into replies, and nothing else."""

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from .car import Node, perform
from .logs import start_logging
from .messages import answer_record, read_task

start_logging()
app = ClientApp()


@app.query()
def query(message: Message, context: Context) -> Message:
    """Return whether this car's data can be used, how much there is, and its columns' statistics."""
    answer = perform(Node.of(context.node_config, context.node_id), context.run_config, "query", None)
    return Message(answer_record(answer), reply_to=message)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train from the weights in the message; evaluate them first when asked to."""
    return _work(message, context, "train")


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the weights in the message on this car's held-out windows."""
    return _work(message, context, "evaluate")


def _work(message: Message, context: Context, kind: str) -> Message:
    task = read_task(message.content)
    answer = perform(Node.of(context.node_config, context.node_id), context.run_config, kind, task)
    return Message(answer_record(answer, task.weights, task.compression), reply_to=message)
