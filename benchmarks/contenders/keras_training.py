"""KerasHub's BertTextClassifier on the JAX backend, in an interpreter of its own.

Its own `fit`, which compiles the step. Imports nothing of bert_jax.
"""

import os
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import jax
import keras
import keras_hub
import numpy as np
from safetensors.numpy import load_file

from ..workload import Job, learning_rate


class _Schedule(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self, settings: dict[str, Any]):
        rates = [learning_rate(settings, step) for step in range(settings["schedule_steps"] + 1)]
        self._rates = keras.ops.convert_to_tensor(np.array(rates, np.float32))

    def __call__(self, step: Any) -> Any:
        """The rate at a step; 0 after the last."""
        last = self._rates.shape[0] - 1
        return keras.ops.take(self._rates, keras.ops.minimum(keras.ops.cast(step, "int32"), last))

    def get_config(self) -> dict[str, Any]:
        """Nothing: it is never saved."""
        return {}


class Contender:
    """`argument` is the padded length."""

    def __init__(self, job: Job, argument: str):
        self.notes: list[str] = []
        self._settings, self._train, self._dev = job.settings, job.examples("train"), job.examples("dev")
        self._layout = argument
        keras.utils.set_random_seed(self._settings["seed"])
        backbone = keras_hub.models.BertBackbone.from_preset(str(job.huggingface), load_weights=True)
        self._model = keras_hub.models.BertTextClassifier(
            backbone, num_classes=self._settings["num_labels"], dropout=0.1, preprocessor=None
        )
        tensors = load_file(job.huggingface / "model.safetensors")
        for layer, name in (("pooled_dense", "bert.pooler.dense"), ("logits", "classifier")):
            where = backbone if layer == "pooled_dense" else self._model
            where.get_layer(layer).set_weights([tensors[f"{name}.weight"].T, tensors[f"{name}.bias"]])
        optimizer = keras.optimizers.AdamW(
            _Schedule(self._settings),
            weight_decay=self._settings["weight_decay"],
            epsilon=1e-8,
            global_clipnorm=self._settings["clip_norm"],
        )
        optimizer.exclude_from_weight_decay([v for v in self._model.trainable_variables if len(v.shape) == 1])
        self._model.compile(
            optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=True, metrics=[]
        )
        optimizer.build(self._model.trainable_variables)
        self._start = self._model.get_weights()
        self._optimizer, self._moments = optimizer, [v.numpy() for v in optimizer.variables]

    def restart(self) -> None:
        """Back to the state before step 0."""
        # In place: a model compiled anew would be traced anew.
        self._model.set_weights(self._start)
        for variable, value in zip(self._optimizer.variables, self._moments, strict=True):
            variable.assign(value)

    def prepare(self, first: int, steps: int) -> None:
        """Warm up."""
        self.train(first, min(2, steps))

    def train(self, first: int, steps: int) -> int:
        """Take these steps to their end; returns the tokens computed, padding included."""
        chosen = list(self._train.batches(self._layout, first, steps))
        features, labels = self._inputs(self._train, np.concatenate([indices for indices, _ in chosen]))
        batch_size = self._settings["batch_size"]
        self._model.fit(features, labels, batch_size=batch_size, shuffle=False, epochs=1, verbose=0)
        return features["token_ids"].size

    def logits(self, count: int) -> list[list[float]]:
        """Of the first `count` dev examples, without dropout."""
        features, _ = self._inputs(self._dev, np.arange(min(count, len(self._dev))))
        return self._model.predict(features, batch_size=64, verbose=0).tolist()

    def _inputs(self, examples: Any, indices: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        ids, mask, labels = (array.astype(np.int32) for array in examples.padded(indices, int(self._layout)))
        return {"token_ids": ids, "segment_ids": ids * 0, "padding_mask": mask}, labels


def versions() -> dict[str, str]:
    """What it runs on."""
    return {
        "keras": keras.__version__,
        "keras_hub": keras_hub.__version__,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
    }
