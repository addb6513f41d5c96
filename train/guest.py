"""Undo what other libraries change in the whole process."""

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def as_found(*variables: str) -> Iterator[None]:
    """Restore these environment variables, and the start method of `multiprocessing`, at the end of the block."""
    before = {name: os.environ.get(name) for name in variables}
    method = multiprocessing.get_start_method(allow_none=True)
    try:
        yield
    finally:
        multiprocessing.set_start_method(method, force=True)
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ.update({} if value is None else {name: value})
