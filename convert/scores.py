"""A run's figures as a model card shows them."""

from collections.abc import Mapping
from typing import Any

from .markdown import code, table

METRICS = {
    "accuracy": ("accuracy", "Accuracy"),
    "macro_f1": ("f1", "Macro F1"),
    "micro_f1": ("f1", "Micro F1"),
    "mcc": ("matthews_correlation", "Matthews correlation"),
    "map": ("mean_average_precision", "Mean average precision"),
    "exact_match": ("exact_match", "Exact match"),
    "spearman": ("spearmanr", "Spearman correlation"),
    "pearson": ("pearsonr", "Pearson correlation"),
    "mse": ("mse", "Mean squared error"),
    "loss": ("loss", "Loss"),
}
"""A run's figures: what the hub calls them, and what the card does."""


def of_split(figures: Mapping[str, Any]) -> dict[str, float]:
    """The plain numbers that were measured of a split."""
    return {name: value for name, value in figures.items() if isinstance(value, float) and name != "threshold"}


def tables(best: Mapping[str, Mapping[str, Any]], labels: tuple[str, ...]) -> str:
    """Every figure of every split, and below them the F1 of each label where there is one."""
    names = list(dict.fromkeys(name for figures in best.values() for name in of_split(figures)))
    rows = [("Examples", *(f"{figures['examples']:,}" for figures in best.values()))]
    for name in names:
        values = (of_split(figures).get(name) for figures in best.values())
        rows.append((METRICS.get(name, (name, code(name)))[1], *map(_shown, values)))
    text = table(("metric", *map(code, best)), rows)
    if all(len(figures.get("f1", ())) == len(labels) for figures in best.values()):
        each = [
            (code(label), *(_shown(figures["f1"][i]) for figures in best.values())) for i, label in enumerate(labels)
        ]
        text += "\n\n" + table(("F1 of", *map(code, best)), each)
    return text


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
