"""Starts processes of the scripts quickly, and kills them at a stated moment.

TensorFlow is imported once; every request forks a process which calls the script's `main`. Requests
come on standard input and answers go to standard output, a JSON object a line:

    {"script": "train_cifar", "flags": [...], "log": path, "kill": {"step": 3, "seconds": 0.2}}
    {"pid": 123}
    {"status": 0}            # as `subprocess` has it: -9 after SIGKILL

`kill` is one of: nothing; "io": n, at the n-th time that the process makes, synchronises, renames
or removes a file (which is cut in half before it is synchronised); "step": n with "seconds": t, so
long after the n-th training step (or trial) has begun. Its "signal" is SIGKILL unless stated.
"file_size" limits the size of the files that the process may write, as a full disk would.
"""

import functools
import importlib
import json
import os
import resource
import signal
import sys
import threading
import traceback
from pathlib import Path

from infomcr_tf.command_line.quiet import start_tensorflow

start_tensorflow()

import sklearn.datasets
import sklearn.model_selection  # noqa: F401

from infomcr_tf.characterization.trials import Trials
from infomcr_tf.training.nonfinite import NonFiniteGuard


def die_at_io(number, die):
    count = 0

    def counted(function):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count == number:
                if function is fsync:
                    half_written(args[0])
                die()
            return function(*args, **kwargs)

        return call

    fsync = os.fsync
    for name in ("fsync", "replace", "unlink", "mkdir"):
        setattr(os, name, counted(getattr(os, name)))


def half_written(descriptor):
    path = Path(f"/proc/self/fd/{descriptor}").readlink()
    if path.is_file():
        os.truncate(path, path.stat().st_size // 2)


def die_in_step(number, seconds, die):
    count = 0

    def timed(owner, name):
        function = getattr(owner, name)

        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count == number:
                timer = threading.Timer(seconds, die)
                timer.daemon = True
                timer.start()
            return function(*args, **kwargs)

        setattr(owner, name, call)

    timed(NonFiniteGuard, "step")
    timed(Trials, "__call__")


def run(request):
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    # It may have been ignored where the tests run.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if "file_size" in request:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_size"], resource.RLIM_INFINITY))
    kill = request["kill"]
    die = functools.partial(os.kill, os.getpid(), kill.get("signal", signal.SIGKILL))
    if "io" in kill:
        die_at_io(kill["io"], die)
    elif "step" in kill:
        die_in_step(kill["step"], kill["seconds"], die)
    main = importlib.import_module(request["script"]).main
    try:
        return main(request["flags"])
    except SystemExit as exit:
        return exit.code
    except BaseException:
        traceback.print_exc()
        return 70


def serve():
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            status = run(request)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        print(json.dumps({"pid": child}), flush=True)
        _, status = os.waitpid(child, 0)
        print(json.dumps({"status": os.waitstatus_to_exitcode(status)}), flush=True)


if __name__ == "__main__":
    serve()
