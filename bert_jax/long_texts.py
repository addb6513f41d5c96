"""The choice of tokens from a text that is longer than a model reads at once."""

from typing import NamedTuple

LONG_TEXTS = ("head", "tail", "both", "windows")
"""What is read of a text that is too long: its first tokens, its last ones, half of each, or all tokens in windows."""


class Cutting(NamedTuple):
    """The settings for long texts: at most `max_length` tokens are read at once, special tokens included.

    `long_texts` is one of `LONG_TEXTS`, and `stride` is the number of tokens between the starts of two windows.
    """

    max_length: int
    long_texts: str = "head"
    stride: int | None = None

    @property
    def said(self) -> dict[str, str]:
        """The settings as strings, as a checkpoint's metadata keep them; None values are left out."""
        return {name: str(value) for name, value in self._asdict().items() if value is not None}

    @property
    def reads_all(self) -> bool:
        """Whether all tokens of a text are read."""
        return self.long_texts == "windows"

    def pieces(self, ids: list[int], room: int) -> list[list[int]]:
        """Return what is read of a text of more than `room` tokens, in pieces of `room` tokens.

        Windows begin `stride` tokens apart, but at most `room`; without a `stride`, they begin half of `room` apart.
        The last window ends with the text.
        """
        if self.long_texts == "head":
            return [ids[:room]]
        if self.long_texts == "tail":
            return [ids[len(ids) - room :]]
        if self.long_texts == "both":
            end = room // 2
            return [ids[: room - end] + ids[len(ids) - end :]]
        stride = min(self.stride or max(1, room // 2), room)
        starts = [*range(0, len(ids) - room, stride), len(ids) - room]
        return [ids[start : start + room] for start in starts]
