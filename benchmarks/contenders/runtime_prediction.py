"""Runtimes for networks exported from torch, on the CPU: onnxruntime and OpenVINO, from raw text, sorted by length."""

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from ..workload import Job
from . import torch_prediction


class Contender(torch_prediction.Contender):
    """`argument` is `onnxruntime-SIZE` or `openvino-SIZE`, of batches of SIZE texts."""

    def __init__(self, job: Job, argument: str):
        runtime, _, size = argument.partition("-")
        super().__init__(job, f"sorted-{size}")
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "model.onnx"
            _export(self._model.cpu(), path)
            self._run = {"onnxruntime": _onnxruntime, "openvino": _openvino}[runtime](path)

    def logits(self, ids: np.ndarray, mask: np.ndarray) -> torch.Tensor:
        """Of one padded batch."""
        return torch.from_numpy(self._run(ids, mask))


def _export(model: Any, path: Path) -> None:
    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids=input_ids, attention_mask=attention_mask).logits

    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", max=model.config.max_position_embeddings)
    ids, mask = torch.ones(2, 2, 16, dtype=torch.int64)
    mask[1, 8:] = 0  # without padding, transformers would leave the mask out
    torch.onnx.export(
        Logits(),
        (ids, mask),
        path,
        input_names=["input_ids", "attention_mask"],
        output_names=["logits"],
        dynamic_shapes={"input_ids": {0: batch, 1: length}, "attention_mask": {0: batch, 1: length}},
        dynamo=True,
        external_data=False,
    )


def _onnxruntime(path: Path) -> Any:
    import onnxruntime  # pyright: ignore[reportMissingImports]  # an extra that no check installs

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = os.cpu_count() or 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda ids, mask: session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0]


def _openvino(path: Path) -> Any:
    import openvino  # pyright: ignore[reportMissingImports]

    # Float32 throughout: by itself it takes bfloat16 where a processor has it.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    return lambda ids, mask: compiled({"input_ids": ids, "attention_mask": mask})["logits"]


def versions() -> dict[str, str]:
    """What it runs on, where it is installed."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"torch": torch.__version__, "transformers": transformers.__version__}
    for name in ("onnxruntime", "openvino"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
