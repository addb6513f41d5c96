"""`python -m benchmarks.worker KIND ARGUMENT JOB`: one contender, driven by JSON lines on its standard input.

Each request is one object, each answer one object: what was asked for, or {"error": ...}. Needs
numpy alone besides what the contender imports, so any interpreter can run it.
"""

import importlib
import json
import os
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any, TextIO

from .workload import Job

CONTENDERS = {
    "ours": "ours",
    "product": "product",
    "torch": "torch_training",
    "flax": "flax_training",
    "keras": "keras_training",
    "predict-ours": "ours_prediction",
    "predict-torch": "torch_prediction",
    "predict-runtime": "runtime_prediction",
    "embed-ours": "ours_embedding",
    "embed-theirs": "sentence_embedding",
    "attention": "attention",
}
"""Kind of contender -> module with `Contender(job, argument)`."""


def peak_memory() -> int:
    """Most bytes of memory this process has held at once.

    `ru_maxrss` starts from what the parent held before it became this program, so it is used only where
    the system keeps no VmHWM.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def answer(contender: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Do what a request asks for; `seconds` is its time here, without the pipe's."""
    arguments = {name: value for name, value in request.items() if name != "do"}
    start = time.perf_counter()
    result = getattr(contender, request["do"])(**arguments)
    seconds = time.perf_counter() - start
    return {"result": result, "seconds": seconds, "peak_memory": peak_memory(), "notes": contender.notes}


def serve(contender: Any, requests: TextIO, answers: TextIO) -> None:
    """Answer until the requests end."""
    for line in requests:
        try:
            out = answer(contender, json.loads(line))
        except Exception as error:
            traceback.print_exc()
            out = {"error": _one_line(error)}
        print(json.dumps(out), file=answers, flush=True)


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


def main(kind: str, argument: str, directory: str) -> None:
    """Load the contender and serve it."""
    # What libraries print must not get among the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        module = importlib.import_module(f".contenders.{CONTENDERS[kind]}", __package__)
        contender = module.Contender(Job(directory), argument)
    except Exception as error:
        traceback.print_exc()
        print(json.dumps({"error": _one_line(error)}), file=answers, flush=True)
        sys.exit(1)
    print(json.dumps({"result": module.versions()}), file=answers, flush=True)
    serve(contender, sys.stdin, answers)


if __name__ == "__main__":
    main(*sys.argv[1:])
