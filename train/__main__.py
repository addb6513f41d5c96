"""`python -m train`: fine-tune a checkpoint. Without arguments, fine-tune MiniLM on the bundled reviews."""

import sys

from bert_jax import extras
from bert_jax.allocator import keep_freed_memory
from bert_jax.command import run
from bert_jax.errors import UserError

from .config import parse


def main(argv: list[str] | None = None) -> int:
    """Check everything that can be checked without JAX, then train. Return the exit code."""
    extras.check("train", "python -m train")
    config = parse(argv)
    from .run.opening import open_run

    prepared, finished, _ = open_run(config)
    if config.inspect or finished:
        print(finished or prepared.describe())
        return 0

    from rich.console import Console

    from bert_jax import compilation

    from .run import loop
    from .run.checkpoints import silence
    from .run.stopping import Signals, Stopped
    from .run.watchdog import Watchdog
    from .step import hosts

    silence()  # never undone: the messages that it hides may come as late as the end of the process
    compilation.use_cache()
    hosts.join(config)
    try:
        hosts.agree(config, prepared)
        console = Console(highlight=False, markup=False, quiet=not hosts.is_first())
        console.print(prepared.describe(), soft_wrap=True)
        loop.run(config, prepared, console, Signals(), Watchdog())
    except Stopped as stopped:
        return 128 + stopped.number
    except UserError:
        raise
    except Exception as error:
        hosts.leave(error)
        raise
    return 0


if __name__ == "__main__":
    if "--inspect" not in sys.argv:  # --inspect takes no step
        keep_freed_memory()
    run(main)
