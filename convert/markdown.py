"""The parts of Markdown that a model card needs."""

from collections.abc import Iterable

from bert_jax.command import printable


def code(text: str) -> str:
    """Return a text as Markdown code, in which no character is markup, also in a cell of a table."""
    text = printable(text)
    if text and text == text.strip() and not set(text) & set("`|\\"):
        return f"`{text}`"
    return f"<code>{''.join(c if c.isalnum() else f'&#{ord(c)};' for c in text)}</code>"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table; the cells are Markdown already."""
    head = list(head)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))
