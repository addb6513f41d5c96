"""`python -m train`: fine-tune a checkpoint; without arguments, MiniLM on the bundled reviews."""

from bert_jax.command import run

from .config import parse


def main(argv: list[str] | None = None) -> None:
    """Check everything that can be checked without JAX, then train."""
    config = parse(argv)
    from .prepare import prepare

    prepared = prepare(config)
    for note in prepared.notes:
        print(note)

    from rich.console import Console

    from . import loop

    loop.run(config, prepared, Console(highlight=False))


if __name__ == "__main__":
    run(main)
