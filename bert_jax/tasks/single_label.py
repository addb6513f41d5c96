"""One class of C for each text: logits of a softmax."""

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Shaped

from bert_jax.tasks.sequence import HEAD, LOSS, MACRO_F1, PIPELINE, most_probable, score_columns
from bert_jax.tasks.task import Metric, Task

if TYPE_CHECKING:
    from bert_jax.predict import Prediction

SINGLE_LABEL = "single_label_classification"


def loss(
    logits: Float[Any, "N C"],
    targets: Shaped[Any, " N"],
    smoothing: float = 0.0,
    class_weights: Float[np.ndarray, " C"] | None = None,
) -> Float[Any, " N"]:
    """Return the negative log-likelihood of each example in nats; targets are class ids.

    `smoothing` spreads this share of a target over all classes. `class_weights` multiply the loss term of each class.
    Source: torch's cross_entropy (label_smoothing, weight).
    """
    # The commands check their input before they import JAX, and they need the tasks for that.
    import jax
    import jax.numpy as jnp

    weights = np.ones(logits.shape[1], np.float32) if class_weights is None else class_weights
    losses = -jax.nn.log_softmax(logits) * weights
    chosen = jnp.take_along_axis(losses, targets[:, None], axis=1)[:, 0]
    return chosen if not smoothing else (1 - smoothing) * chosen + smoothing * losses.mean(axis=1)


def scores(logits: Float[np.ndarray, "N C"]) -> Float[np.ndarray, "N C"]:
    """Return the probabilities of the classes, which sum to 1 (softmax)."""
    grown = np.exp(logits - logits.max(axis=1, keepdims=True))
    return grown / grown.sum(axis=1, keepdims=True)


def predicted(scores: Float[np.ndarray, "N C"], threshold: float) -> list[list[int]]:
    """Return the id of the most probable class of each example, whatever the threshold."""
    return [[label] for label in most_probable(scores)]


def answer(prediction: "Prediction") -> dict[str, Any]:
    """Return the class, its probability, and the probabilities of all classes."""
    return {"label": prediction.label, "score": prediction.score, "scores": prediction.scores}


def columns(prediction: "Prediction") -> dict[str, Any]:
    """Return the columns of the class, of its probability, and of the probabilities of all classes."""
    chosen = {"predicted_label": prediction.label, "predicted_score": prediction.score}
    return chosen | score_columns(prediction)


TASK = Task(
    name=SINGLE_LABEL,
    option="single-label",
    head=HEAD,
    problem_type=SINGLE_LABEL,
    fewest_labels=2,  # with one label, all texts would have one class
    supposed=lambda labels: labels > 1,
    loss=loss,
    scores=scores,
    best=most_probable,
    predicted=predicted,
    answer=answer,
    columns=columns,
    metrics=(
        Metric("accuracy", "accuracy", "Accuracy", "accuracy"),
        MACRO_F1,
        Metric("mcc", "MCC", "Matthews correlation", "matthews_correlation"),
        LOSS,
    ),
    pipeline=PIPELINE,
    # nn.Softmax() without an axis warns at every use; SoftmaxTransform uses the last axis.
    activation="torch.distributions.transforms.SoftmaxTransform",
    gives="one of these classes",
    scoring="softmax gives the classes' probabilities, which sum to 1",
)
