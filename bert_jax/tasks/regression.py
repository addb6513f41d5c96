"""A number for each text, or several: logits that are the numbers themselves."""

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Shaped

from bert_jax.tasks.sequence import HEAD, LOSS, PIPELINE, score_columns
from bert_jax.tasks.task import Metric, Task

if TYPE_CHECKING:
    from bert_jax.predict import Prediction

REGRESSION = "regression"


def loss(
    logits: Float[Any, "N C"],
    targets: Shaped[Any, "N C"],
    smoothing: float = 0.0,
    class_weights: Float[np.ndarray, " C"] | None = None,
) -> Float[Any, " N"]:
    """Return the mean squared error of each example; `smoothing` and `class_weights` mean nothing for numbers.

    Source: torch's mse_loss.
    """
    # The commands check their input before they import JAX, and they need the tasks for that.
    import jax.numpy as jnp

    return jnp.mean((logits - targets) ** 2, axis=1)


def scores(logits: Float[np.ndarray, "N C"]) -> Float[np.ndarray, "N C"]:
    """Return the logits themselves."""
    return logits


def best(scores: Float[np.ndarray, "N C"]) -> list[int]:
    """Return the id of the first number of each example."""
    return [0] * len(scores)


def predicted(scores: Float[np.ndarray, "N C"], threshold: float) -> list[list[int]]:
    """Return the id of the first number of each example, whatever the threshold."""
    return [[0]] * len(scores)


def answer(prediction: "Prediction") -> dict[str, Any]:
    """Return the number, or all numbers by name if there are several."""
    return {"scores": prediction.scores} if len(prediction.scores) > 1 else {"score": prediction.score}


def columns(prediction: "Prediction") -> dict[str, Any]:
    """Return the column of the number, or the columns of all numbers if there are several."""
    return score_columns(prediction) if len(prediction.scores) > 1 else {"predicted_score": prediction.score}


TASK = Task(
    name=REGRESSION,
    option="regression",
    head=HEAD,
    problem_type=REGRESSION,
    fewest_labels=1,
    supposed=lambda labels: labels == 1,
    loss=loss,
    scores=scores,
    best=best,
    predicted=predicted,
    answer=answer,
    columns=columns,
    metrics=(
        Metric("spearman", "Spearman", "Spearman correlation", "spearmanr"),
        Metric("pearson", "Pearson", "Pearson correlation", "pearsonr"),
        Metric("mse", "MSE", "Mean squared error", "mse", smaller_is_better=True),
        LOSS,
    ),
    pipeline=PIPELINE,
    activation="torch.nn.modules.linear.Identity",
    gives="a number",
    scoring="the output is the number itself",
)
