"""Tables of a run's scores for a model card."""

from collections.abc import Mapping
from typing import Any

from bert_jax.tasks import TASKS

from .markdown import code, table

METRICS = {metric.name: (metric.hub, metric.title) for task in TASKS.values() for metric in task.metrics}
"""Names of a run's metrics: the name in run.json, and the names on the hub and in the card."""


def of_split(figures: Mapping[str, Any]) -> dict[str, float]:
    """Return the scores of a split that are single numbers, without the threshold."""
    return {name: value for name, value in figures.items() if isinstance(value, float) and name != "threshold"}


def tables(best: Mapping[str, Mapping[str, Any]], labels: tuple[str, ...]) -> str:
    """Return Markdown tables: of every metric of every split, and of the F1 of each label if all splits have it."""
    names = list(dict.fromkeys(name for figures in best.values() for name in of_split(figures)))
    rows = [("Examples", *(f"{figures['examples']:,}" for figures in best.values()))]
    for name in names:
        values = (of_split(figures).get(name) for figures in best.values())
        rows.append((METRICS.get(name, (name, code(name)))[1], *map(_shown, values)))
    text = table(("metric", *map(code, best)), rows)
    if all(len(figures.get("f1", ())) == len(labels) for figures in best.values()):
        label_rows = [
            (code(label), *(_shown(figures["f1"][i]) for figures in best.values())) for i, label in enumerate(labels)
        ]
        text += "\n\n" + table(("F1 of", *map(code, best)), label_rows)
    return text


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
