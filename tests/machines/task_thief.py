"""A user of the car who asks SuperNode's port for tasks before Flower's executor does: ADDRESS SECONDS.

Prints what came of it, each kind once. Whoever claims a task gets the model and the app, and may answer for the car.
"""

import sys
import time

import grpc
from flwr.proto.runtime_pb2 import ClaimTaskRequest, PullPendingTasksRequest
from flwr.proto.runtime_pb2_grpc import RuntimeStub
from flwr.supercore.grpc import create_channel
from flwr.supercore.interceptors import RuntimeVersionClientInterceptor

address, seconds = sys.argv[1], float(sys.argv[2])
channel = create_channel(
    server_address=address, insecure=True, interceptors=[RuntimeVersionClientInterceptor(component_name="SuperExec")]
)
port = RuntimeStub(channel)
seen = set()
until = time.monotonic() + seconds
while time.monotonic() < until:
    try:
        for task in port.PullPendingTasks(PullPendingTasksRequest(), timeout=5).tasks:
            token = port.ClaimTask(ClaimTaskRequest(task_id=task.task_id), timeout=5).token
            found = "claimed a task" if token else "too late"
            if found not in seen:
                print(found, flush=True)
            seen.add(found)
    except grpc.RpcError as error:
        found = f"refused: {error.code().name}"
        if found not in seen:
            print(found, flush=True)
        seen.add(found)
    time.sleep(0.01)
