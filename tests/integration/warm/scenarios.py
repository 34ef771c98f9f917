# ruff: noqa: PTH109, PTH115, PTH123, PTH208 - it says what Linux has to say, by the calls that ask for it
# Body of the program `flwr-clientapp` of these tests; conftest.py puts the interpreter's line before it.
import atexit
import json
import os
import resource
import signal
import sys
import threading
import time


def facts():
    """Everything about this process that must be the same whether it was forked or started."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    names = ("HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "CHLD", "PIPE", "CONT")
    main = sys.modules["__main__"]
    return {
        "argv": sys.argv,
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "umask": os.umask(0o77),
        "path": sys.path,
        "flags": list(sys.flags),
        "asserts": __debug__,
        "main": [main.__name__, main.__file__, sorted(name for name in vars(main) if name.startswith("__"))],
        "limits": [resource.getrlimit(number) for number in range(16)],
        "niceness": os.nice(0),
        "processors": sorted(os.sched_getaffinity(0)),
        "blocked": sorted(int(number) for number in blocked),
        "signals": [str(signal.getsignal(getattr(signal, f"SIG{name}"))) for name in names],
        "threads": len(os.listdir("/proc/self/task")),
        "encodings": [sys.stdout.encoding, sys.stderr.encoding, sys.stdout.errors, sys.stderr.errors],
        "buffering": [sys.stdout.line_buffering, sys.stderr.line_buffering],
        "streams": [os.readlink(f"/proc/self/fd/{number}").partition(":")[0] for number in (0, 1, 2)],
    }


def main():
    print("to standard output")
    print("to standard error", file=sys.stderr)
    kind, *rest = sys.argv[1:]
    if kind == "exit":
        sys.exit(int(rest[0]))
    elif kind == "text":
        sys.exit("ends with a text")
    elif kind == "none":
        sys.exit(None)
    elif kind == "raise":
        raise RuntimeError("not caught")
    elif kind == "interrupt":
        raise KeyboardInterrupt
    elif kind == "at-once":
        sys.stdout.flush()
        os._exit(7)
    elif kind == "signal":
        sys.stdout.flush()
        os.kill(os.getpid(), int(rest[0]))
        time.sleep(30)
    elif kind == "abort":
        sys.stdout.flush()
        os.abort()
    elif kind == "memory":
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
        bytearray(8 << 30)
    elif kind == "exit-functions":
        atexit.register(print, "last")
        threading.Thread(target=lambda: (time.sleep(0.2), print("thread")), daemon=False).start()
    elif kind == "input":
        print(sys.stdin.read().upper())
    elif kind == "facts":
        print(json.dumps(facts()))
    elif kind == "traps":
        signal.signal(signal.SIGTERM, lambda number, frame: (print("asked to end"), sys.exit(3)))
        print("ready", flush=True)
        time.sleep(60)
    elif kind == "waits":
        print(os.getpid(), flush=True)
        time.sleep(float(rest[0]))
        sys.exit(5)
    elif kind == "notes":
        with open(rest[0], "a") as stream:
            stream.write("ran\n")
    elif kind == "grandchild":
        if os.fork() == 0:
            time.sleep(3)
            os._exit(0)
        sys.exit(4)
    elif kind == "random":
        import random
        import uuid

        import numpy
        import torch

        print(random.random(), numpy.random.random(), torch.rand(1).item(), uuid.uuid4())
    elif kind == "numbers":
        import numpy
        import torch

        left = torch.arange(250000, dtype=torch.float64).reshape(500, 500) / 250000
        square = numpy.arange(250000, dtype=numpy.float64).reshape(500, 500) / 250000
        print(torch.get_num_threads(), float((left @ left).sum()), float((square @ square).sum()))
        print("numpy and torch loaded", flush=True)
    elif kind == "imports":
        sys.path.insert(0, rest[0])
        import fleven.app.version

        print(fleven.app.version.NAME, fleven.__file__)
    elif kind == "loaded":
        print(json.dumps([name for name in rest if name in sys.modules]))
    elif kind == "import":
        for name in rest:
            __import__(name)
    elif kind == "many":
        os._exit(int(rest[0]))
    else:
        raise ValueError(kind)


if __name__ == "__main__":
    main()
