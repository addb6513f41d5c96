"""Settings of the network for training, and checks of the attention kernel that the options name."""

from typing import Any

import jax
from rich.console import Console

from bert_jax.attention import fused_here, takes
from bert_jax.errors import UserError
from bert_jax.kernel_check import agrees

from ..config import TrainConfig
from . import hosts


def settings(config: TrainConfig, attention: str) -> dict[str, Any]:
    """Return the arguments of the network that set how it computes. All processes agreed on `attention`."""
    frozen = config.freeze_layers if config.freeze_layers or config.freeze_embeddings else None
    arguments = {"dtype": config.dtype, "precision": config.precision, "attention": attention}
    return arguments | {"remat": config.remat, "frozen": frozen}


def agreed_attention(name: str, console: Console) -> str:
    """Return `name`, or "plain" if `name` is "auto" and any process has refused the fused kernel.

    All processes must compile the same program.
    """
    kernel = fused_here()
    if name != "auto" or kernel is None:
        return name
    accepted = agrees(kernel)
    if hosts.everyone(accepted):
        return name
    if accepted:
        console.print("attention plain, because the fused kernel was refused on another process")
    return "plain"


def check_attention(name: str, row_length: int, head_size: int) -> None:
    """Raise `UserError` if this machine does not have the kernel `name`, or the kernel does not accept these shapes."""
    needed = {"triton": "gpu", "mosaic": "tpu"}.get(name)
    if needed is None:
        return
    if jax.default_backend() != needed:
        raise UserError(f"--attention {name} needs a {needed.upper()}, and this run is on a {jax.default_backend()}")
    if not takes(row_length, head_size, name):
        raise UserError(
            f"--attention {name} does not take rows of {row_length} tokens with heads of {head_size} numbers; "
            "leave it at auto"
        )
