"""transformers on torch: sdpa attention, fused AdamW, the same schedule, clipping and dropout."""

from typing import Any

import numpy as np
import torch
import transformers

from ..workload import Job, learning_rate


class Contender:
    """`argument` is a layout of `Examples.batches`, with `-compiled` for torch.compile.

    With the job's optional `dtype` of bfloat16 the forward pass is autocast; parameters stay float32.
    A GPU's float32 products are TF32, as JAX's are.
    """

    def __init__(self, job: Job, argument: str):
        self.notes: list[str] = []
        self._settings, self._train, self._dev = job.settings, job.examples("train"), job.examples("dev")
        self._layout, _, compiled = argument.partition("-")
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(self._settings["seed"])
        if self._device.type == "cuda":
            torch.set_float32_matmul_precision("high")
        self._autocast = torch.autocast(
            self._device.type, torch.bfloat16, enabled=self._settings.get("dtype") == "bfloat16"
        )
        self._model = _classifier(job).to(self._device)
        self._start = {name: tensor.clone() for name, tensor in self._model.state_dict().items()}
        self._call = self._model
        if compiled:
            self._call = torch.compile(self._model, dynamic=not self._layout.isdecimal())
        self.restart()

    def restart(self) -> None:
        """Back to the state before step 0."""
        self._model.load_state_dict(self._start)
        self._parameters = list(self._model.parameters())
        groups = [
            {"params": [p for p in self._parameters if p.ndim > 1], "weight_decay": self._settings["weight_decay"]},
            {"params": [p for p in self._parameters if p.ndim == 1], "weight_decay": 0.0},
        ]
        self._optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.999), eps=1e-8, fused=True)
        self._done = 0

    def prepare(self, first: int, steps: int) -> None:
        """Run a batch of each length that these steps have: oneDNN and torch.compile set up for new ones."""
        lengths = {length: indices for indices, length in self._train.batches(self._layout, first, steps)}
        for length, indices in lengths.items():
            self._batch(indices, length)
        self._finish()
        self.notes = [f"{len(lengths)} lengths of the step"]

    def train(self, first: int, steps: int) -> int:
        """Take these steps to their end; returns the tokens computed, padding included."""
        batches = self._train.batches(self._layout, first, steps)
        computed = sum(self._batch(indices, length) for indices, length in batches)
        self._finish()
        return computed

    def device_memory(self) -> int:
        """Most bytes of the GPU's memory held at once."""
        return torch.cuda.max_memory_allocated() if self._device.type == "cuda" else 0

    def logits(self, count: int) -> list[list[float]]:
        """Of the first `count` dev examples, without dropout."""
        self._model.eval()
        out: list[list[float]] = []
        with torch.inference_mode():
            for indices, length in self._dev.in_order(count):
                ids, mask, _ = (self._put(array) for array in self._dev.padded(indices, length))
                out += self._model(input_ids=ids, attention_mask=mask).logits.tolist()
        return out

    def _batch(self, indices: np.ndarray, length: int) -> int:
        self._model.train()
        ids, mask, labels = (self._put(array) for array in self._train.padded(indices, length))
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self._settings, self._done)
        with self._autocast:
            loss = self._call(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._parameters, self._settings["clip_norm"], foreach=True)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._done += 1
        return ids.numel()

    def _put(self, array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        # From pinned memory the copy does not wait for the steps before it.
        return tensor.pin_memory().to(self._device, non_blocking=True) if self._device.type == "cuda" else tensor

    def _finish(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()


def _classifier(job: Job) -> Any:
    """The job's checkpoint, or where it has none, a classifier of its config with weights as they come."""
    kind: Any = transformers.BertForSequenceClassification
    if job.huggingface.is_dir():
        return kind.from_pretrained(job.huggingface, attn_implementation="sdpa", dtype=torch.float32)
    config = transformers.BertConfig.from_dict(job.settings["config"])
    return transformers.AutoModelForSequenceClassification.from_config(config, attn_implementation="sdpa")


def versions() -> dict[str, str]:
    """What it runs on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads"
    return {"torch": torch.__version__, "transformers": transformers.__version__, "device": device}
