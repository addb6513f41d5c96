"""Any number of C labels for each text: logits of independent sigmoids."""

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Shaped

from bert_jax.tasks.sequence import HEAD, LOSS, MACRO_F1, PIPELINE, most_probable, score_columns
from bert_jax.tasks.task import Metric, Task

if TYPE_CHECKING:
    from bert_jax.predict import Prediction

MULTI_LABEL = "multi_label_classification"


def loss(
    logits: Float[Any, "N C"],
    targets: Shaped[Any, "N C"],
    smoothing: float = 0.0,
    class_weights: Float[np.ndarray, " C"] | None = None,
) -> Float[Any, " N"]:
    """Return the mean of the C binary negative log-likelihoods of each example in nats; targets are 0 or 1.

    `smoothing` spreads this share of a target over both answers. `class_weights` multiply the positive term of each
    label. Source: torch's binary_cross_entropy_with_logits (pos_weight).
    """
    # The commands check their input before they import JAX, and they need the tasks for that.
    import jax
    import jax.numpy as jnp

    weights = np.ones(logits.shape[1], np.float32) if class_weights is None else class_weights
    smooth = targets * (1 - smoothing) + smoothing / 2
    return jnp.mean(weights * smooth * jax.nn.softplus(-logits) + (1 - smooth) * jax.nn.softplus(logits), axis=1)


def scores(logits: Float[np.ndarray, "N C"]) -> Float[np.ndarray, "N C"]:
    """Return the probability of each label by itself (sigmoid)."""
    grown = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1, grown) / (1 + grown)


def predicted(scores: Float[np.ndarray, "N C"], threshold: float) -> list[list[int]]:
    """Return the ids of the labels of each example whose probability reaches the threshold."""
    return [[i for i, value in enumerate(values) if value >= threshold] for values in scores.tolist()]


def answer(prediction: "Prediction") -> dict[str, Any]:
    """Return the predicted labels, and the probabilities of all labels."""
    return {"labels": list(prediction.labels), "scores": prediction.scores}


def columns(prediction: "Prediction") -> dict[str, Any]:
    """Return the column of the predicted labels, and the columns of the probabilities of all labels."""
    labels = list(prediction.labels)
    parted = any("," in name for name in prediction.scores)  # a label with a comma could not be read back
    cell = json.dumps(labels, ensure_ascii=False) if parted else ", ".join(labels)
    return {"predicted_labels": cell} | score_columns(prediction)


TASK = Task(
    name=MULTI_LABEL,
    option="multi-label",
    head=HEAD,
    problem_type=MULTI_LABEL,
    fewest_labels=1,
    supposed=lambda labels: False,
    loss=loss,
    scores=scores,
    best=most_probable,
    predicted=predicted,
    answer=answer,
    columns=columns,
    metrics=(
        MACRO_F1,
        Metric("micro_f1", "micro F1", "Micro F1", "f1"),
        Metric("map", "mAP", "Mean average precision", "mean_average_precision"),
        Metric("exact_match", "exact match", "Exact match", "exact_match"),
        LOSS,
    ),
    pipeline=PIPELINE,
    activation="torch.nn.modules.activation.Sigmoid",
    gives="any number of these labels",
    scoring="sigmoid gives the probability of each label by itself",
)
