"""What is read of a text that is longer than what a model reads at once."""

from typing import NamedTuple

LONG_TEXTS = ("head", "tail", "both", "windows")
"""What is read of a text that is too long: its first tokens, its last, half of either, or all in windows."""


class Cutting(NamedTuple):
    """What is read of a text: at most `max_length` tokens at once, special ones included (`LONG_TEXTS`)."""

    max_length: int
    long_texts: str = "head"
    stride: int | None = None

    @property
    def said(self) -> dict[str, str]:
        """In strings, as a checkpoint keeps it."""
        return {name: str(value) for name, value in self._asdict().items() if value is not None}

    @property
    def reads_all(self) -> bool:
        """Whether nothing of a text is left out."""
        return self.long_texts == "windows"

    def pieces(self, ids: list[int], room: int) -> list[list[int]]:
        """What is read of a text of more than `room` tokens, in pieces of `room`.

        Windows begin `stride` tokens apart (half of `room` if that is not given), and the last one ends with the text.
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
