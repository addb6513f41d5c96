"""As much Markdown as a model card needs."""

from collections.abc import Iterable

from bert_jax.command import printable


def code(text: str) -> str:
    """A name as Markdown code, in which nothing is markup, in a table's cell too."""
    text = printable(text)
    if text and text == text.strip() and not set(text) & set("`|\\"):
        return f"`{text}`"
    return f"<code>{''.join(c if c.isalnum() else f'&#{ord(c)};' for c in text)}</code>"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table of cells that are Markdown already."""
    head = list(head)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))
