"""Plots as inline SVG, in the colours of the page around them."""

import io
import itertools
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from bert_jax.command import printable

from ..tasks import figures
from .statistics import Calibration

# Colours that `_svg` replaces by the CSS colours of the page: text, and two series. `_ONE` also shades the matrix.
_INK, _ONE, _TWO = "#010101", "#020202", "#030303"
_PAGE = {_INK: "currentColor", _ONE: "var(--one)", _TWO: "var(--two)"}
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "bert_jax",
    "font.family": "sans-serif",
    "font.size": 9,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    **{f"{name}.color": _INK for name in ("text", "xtick", "ytick")},
    **{f"axes.{name}": _INK for name in ("edgecolor", "labelcolor", "titlecolor")},
}
_MOST_POINTS = 600
_MOST_CLASSES = 30

_numbers = itertools.count(1)


def _figure(width: float = 4.4, height: float = 2.7) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _svg(figure: Figure, title: str) -> str:
    """Return the figure as an `svg` element with this title.

    The element has no fixed size, so it is as wide as the page allows. Its ids differ from those of all other figures.
    """
    text = io.StringIO()
    FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = text.getvalue()[text.getvalue().index("<svg") :]
    svg = re.sub(r'<svg [^>]*viewBox="([^"]*)"[^>]*>', r'<svg role="img" viewBox="\1">', svg, count=1)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    mark = f"p{next(_numbers)}-"
    svg = re.sub(r'\bid="', f'id="{mark}', svg)
    svg = re.sub(r"url\(#", f"url(#{mark}", svg)
    svg = re.sub(r'xlink:href="#', f'href="#{mark}', svg)
    for colour, page in _PAGE.items():
        svg = svg.replace(colour, page)
    title = title.replace("&", "&amp;").replace("<", "&lt;")
    return svg.replace(">", f"><title>{title}</title>", 1)


def curves(log: Sequence[Mapping[str, Any]], metric: str, word: str) -> list[tuple[str, str]]:
    """Return titles and plots of loss, metric and learning rate by step, from the lines of metrics.jsonl."""
    steps = [line for line in log if "grad_norm" in line]
    epochs = [line for line in log if "split" in line]
    plots = []
    if steps:
        x, loss = (np.array([line[name] for line in steps], float) for name in ("step", "loss"))
        figure, axes = _figure()
        thin = np.linspace(0, len(x) - 1, min(len(x), _MOST_POINTS)).astype(int)
        axes.plot(x[thin], loss[thin], color=_ONE, alpha=0.25, linewidth=0.8)
        width = max(1, len(loss) // 50)
        smooth = np.convolve(loss, np.ones(width) / width, "valid")
        middle = x[width - 1 :] - (width - 1) / 2
        thin = np.linspace(0, len(smooth) - 1, min(len(smooth), _MOST_POINTS)).astype(int)
        axes.plot(
            middle[thin], smooth[thin], color=_ONE, label="train" if width == 1 else f"train, mean of {width} steps"
        )
        if epochs:
            axes.plot(*_points(epochs, "loss"), "o-", color=_TWO, markersize=3.5, label="dev")
        axes.set(xlabel="step", ylabel="loss", ylim=(0, None))
        axes.legend()
        plots.append(("Loss", _svg(figure, f"loss of {len(x)} steps, last {loss[-1]:.4f}")))
    if epochs and metric in epochs[0]:
        figure, axes = _figure()
        x, y = _points(epochs, metric)
        axes.plot(x, y, "o-", color=_TWO, markersize=3.5)
        axes.set(xlabel="step", ylabel=f"{word} on dev")
        plots.append((f"{word[0].upper()}{word[1:]} on dev", _svg(figure, f"{word} on dev, last {y[-1]:.4f}")))
    if steps and "learning_rate" in steps[-1]:
        figure, axes = _figure()
        rates = np.array([line.get("learning_rate", np.nan) for line in steps], float)
        x = np.array([line["step"] for line in steps])
        thin = np.linspace(0, len(x) - 1, min(len(x), _MOST_POINTS)).astype(int)
        axes.plot(x[thin], rates[thin], color=_ONE)
        axes.set(xlabel="step", ylabel="learning rate", ylim=(0, None))
        axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
        plots.append(("Learning rate", _svg(figure, "learning rate of every step")))
    return plots


def _points(lines: Sequence[Mapping[str, Any]], name: str) -> tuple[list[float], list[float]]:
    return [line["step"] for line in lines], [line[name] for line in lines]


def draw(figure: figures.Figure) -> tuple[str, str]:
    """Return the title and plot of a figure that a task describes."""
    if isinstance(figure, figures.Confusion):
        return confusion(figure.counts, figure.labels)
    if isinstance(figure, figures.Bars):
        return figure.title, bars(figure.values, figure.labels, figure.axis)
    if isinstance(figure, figures.Histogram):
        groups = {short(name): values for name, values in figure.groups.items()}
        axis = f"{figure.axis} {short(figure.label)}" if figure.label else figure.axis
        return figure.title, histogram(groups, axis, figure.bounds)
    return figure.title, scatter(figure.predicted, figure.true, short(figure.label))


def confusion(counts: Sequence[Sequence[int]], labels: Sequence[str]) -> tuple[str, str]:
    """Return the title and plot of a confusion matrix: true classes down, predicted classes across.

    Cells are shaded by their share of the true class. Of many classes, the plot shows those that are confused most.
    """
    table = np.array(counts)
    chosen = np.arange(len(table))
    if len(table) > _MOST_CLASSES:
        errors = table - np.diag(np.diag(table))
        chosen = np.sort(np.argsort(-(errors.sum(0) + errors.sum(1)), kind="stable")[:_MOST_CLASSES])
    shown = table[np.ix_(chosen, chosen)]
    share = shown / np.maximum(table.sum(axis=1)[chosen, None], 1)
    size = len(chosen)
    side = min(2.7 + 0.25 * max(0, size - 3), 6.6)
    figure, axes = _figure(max(4.4, side + 0.6), side)
    for i, j in np.ndindex(size, size):
        axes.add_patch(_square(j, i, float(share[i, j])))
        if size <= 15 or shown[i, j]:
            font_size = 8 if size <= 15 else 5
            axes.text(j, i, f"{shown[i, j]:,}", ha="center", va="center", fontsize=font_size)
    names = [short(labels[i]) for i in chosen.tolist()]
    axes.set_xticks(range(size), names, rotation=0 if sum(map(len, names)) < 45 and size <= 4 else 90)
    axes.set_yticks(range(size), names)
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), xlabel="predicted", ylabel="true", aspect="equal")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    title = "Confusion" if size == len(table) else f"Confusion of the {size} labels confused most"
    right = np.diag(table).sum()
    return title, _svg(figure, f"confusion matrix: {right} of {table.sum()} predictions are right")


def _square(x: float, y: float, share: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.48, y - 0.48), 0.96, 0.96, facecolor=_ONE, alpha=0.06 + 0.5 * share, linewidth=0)


def calibrated(found: Calibration) -> str:
    """Return a plot of the share of predictions that came true against the predicted probability.

    Wider bars hold more predictions.
    """
    figure, axes = _figure()
    nonempty = found.counts > 0
    width = 1 / len(found.counts)
    centers = (np.arange(len(found.counts)) + 0.5) * width
    widths = width * (0.15 + 0.8 * np.sqrt(found.counts / found.counts.max()))
    axes.bar(centers[nonempty], found.true[nonempty], widths[nonempty], color=_ONE, alpha=0.7)
    axes.plot([0, 1], [0, 1], color=_INK, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.plot(found.stated[nonempty], found.true[nonempty], ".", color=_TWO, markersize=6)
    axes.set(xlabel="probability stated", ylabel="share that came true", xlim=(0, 1), ylim=(0, 1.02))
    return _svg(figure, f"calibration: expected error {found.error:.4f}")


def histogram(groups: Mapping[str, np.ndarray], label: str, bounds: tuple[float, float] | None = None) -> str:
    """Return a histogram of the values in one or two groups."""
    figure, axes = _figure()
    values = np.concatenate(list(groups.values()))
    low, high = bounds or (float(values.min()), float(values.max()) + 1e-9)
    edges = np.linspace(low, high, 26)
    for (name, group), colour in zip(groups.items(), (_ONE, _TWO), strict=False):
        axes.hist(group, edges, color=colour, alpha=0.6, label=name)
    axes.set(xlabel=label, ylabel="texts")
    if len(groups) > 1:
        axes.legend()
    return _svg(figure, f"histogram of {label}")


def scatter(said: np.ndarray, true: np.ndarray, label: str) -> str:
    """Return a plot of predicted against true numbers. Of more than 2,000 points, 2,000 random ones are drawn."""
    figure, axes = _figure(4.4, 3.6)
    chosen = np.random.default_rng(0).permutation(len(said))[:2000]
    axes.plot(true[chosen], said[chosen], ".", color=_ONE, alpha=0.35, markersize=4, markeredgewidth=0)
    ends = [float(true.min()), float(true.max())]
    axes.plot(ends, ends, color=_INK, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set(xlabel=f"true {label}", ylabel=f"predicted {label}")
    return _svg(figure, f"predicted and true {label}")


def bars(values: Sequence[float], labels: Sequence[str], label: str) -> str:
    """Return a plot with a bar for each label. Of more than 40 labels, the 40 with the lowest values are drawn."""
    order = np.argsort(values, kind="stable")[:40][::-1].tolist()
    figure, axes = _figure(4.4, 0.9 + 0.2 * len(order))
    axes.barh(range(len(order)), [values[i] for i in order], color=_ONE, alpha=0.7, height=0.7)
    axes.set_yticks(range(len(order)), [short(str(labels[i])) for i in order])
    axes.set(xlabel=label, xlim=(0, 1))
    axes.tick_params(axis="y", length=0)
    return _svg(figure, f"{label} of each label")


def short(name: str) -> str:
    """Return a label shortened to fit beside a plot.

    Dollar signs are escaped, because matplotlib would read them as mathematics.
    """
    name = printable(name)
    return (name if len(name) <= 24 else f"{name[:23]}…").replace("$", r"\$")


def drawn(function: Any, *args: Any) -> Any:
    """Call a function that draws plots, with the style of this module, and return its result."""
    style: Any = _STYLE
    with rc_context(style), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # matplotlib's font lacks glyphs, but the browser has its own
        return function(*args)
