"""A process that calls the library in every way and says what is not as it was: python -m tests.guest MODEL FOLDER."""

import contextlib
import csv
import gc
import json
import locale
import logging
import multiprocessing
import os
import random
import signal
import socket
import sys
import threading
import warnings
from pathlib import Path

import datasets
import huggingface_hub
import jax
import jinja2  # noqa: F401  # these are imported first: what they do then is theirs
import matplotlib
import matplotlib.backends.backend_svg
import numpy as np
import orbax.checkpoint  # noqa: F401
import pyarrow.parquet  # noqa: F401
import rich.console  # noqa: F401
import scipy.sparse  # noqa: F401
import sklearn  # noqa: F401

ROWS = [(f"the {'very ' * (i % 7)}{('bad', 'good')[i % 2]} film", ("no", "yes")[i % 2]) for i in range(24)]


def state():
    """Everything that is the process's."""
    mask = os.umask(0)
    os.umask(mask)
    loggers = {name: log for name, log in logging.root.manager.loggerDict.items() if isinstance(log, logging.Logger)}
    hub = huggingface_hub.utils
    return {
        "environment": dict(os.environ),
        "place": (os.getcwd(), mask, list(sys.path)),
        "warnings": [repr(one) for one in warnings.filters if "torch" not in repr(one)],  # tensorboardX imports it
        "how warnings are shown": (warnings.formatwarning, warnings.showwarning),
        "loggers": {name: (log.level, log.disabled, log.propagate, log.handlers[:]) for name, log in loggers.items()},
        "logging": (logging.root.level, logging.root.handlers[:], logging.root.manager.disable),
        "numpy": (np.geterr(), np.get_printoptions(), repr(np.random.get_state())),
        "random": random.getstate(),
        "csv": csv.field_size_limit(),
        "python": (sys.getrecursionlimit(), sys.getswitchinterval(), gc.isenabled(), gc.get_threshold()),
        "hooks": (sys.excepthook, sys.unraisablehook, threading.excepthook, sys.gettrace(), sys.getprofile()),
        "streams": (sys.stdout, sys.stderr, sys.stdin),
        "handlers": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "locale": locale.setlocale(locale.LC_ALL),
        "how processes start": multiprocessing.get_start_method(allow_none=True),
        "sockets": socket.getdefaulttimeout(),
        "matplotlib": {name: repr(value) for name, value in dict.items(matplotlib.rcParams)},
        "jax": dict(jax.config.values),
        "datasets": (datasets.are_progress_bars_disabled(), datasets.is_caching_enabled()),
        "verbosity": (datasets.logging.get_verbosity(), hub.logging.get_verbosity(), hub.are_progress_bars_disabled()),
        "offline": (datasets.config.HF_DATASETS_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE),
    }


def main(model: str, folder: Path) -> None:
    """Call the library in each way, and print what that left changed."""
    import bert_jax
    from bert_jax.errors import UserError
    from convert import push
    from train import fine_tune

    table = folder / "rows.csv"
    table.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in ROWS))
    options = {"model": model, "epochs": 1, "batch_size": 8, "max_length": 32, "quiet": True}
    look = {"inspect": True, "quiet": False}

    def refused() -> None:
        with contextlib.suppress(UserError):
            fine_tune("someone/nothing", out=folder / "none", **options)

    def pushed() -> None:
        with contextlib.suppress(UserError):
            push.push(folder / "run", "someone/model", private=False)

    ways = {
        "a run": lambda: fine_tune(table, out=folder / "run", tensorboard=True, **options),
        "rows": lambda: fine_tune(ROWS, **{**options, **look}),
        "a data set of the hub": lambda: fine_tune("someone/reviews", data_name="short", **{**options, **look}),
        "what the hub does not have": refused,
        "a push to the hub": pushed,
        "a model": lambda: bert_jax.load(folder / "run" / "best"),
        "labels": lambda: bert_jax.TextClassifier.load(folder / "run")(["a film"]),
    }
    for way, call in ways.items():
        before = state()
        call()
        after = state()
        for log in set(after["loggers"]) - set(before["loggers"]):  # of what was imported meanwhile
            del after["loggers"][log]
        print(json.dumps([way, [name for name in before if before[name] != after[name]]]))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
