"""How the network computes in a training, and whether this machine has the attention kernel that was asked for."""

from typing import Any

import jax
from rich.console import Console

from bert_jax.attention import fused_here, takes
from bert_jax.errors import UserError
from bert_jax.kernel_check import agrees

from ..config import TrainConfig
from . import hosts


def settings(config: TrainConfig, attention: str) -> dict[str, Any]:
    """How the network computes in a training, apart from what it is; `attention` is what all processes agreed on."""
    frozen = config.freeze_layers if config.freeze_layers or config.freeze_embeddings else None
    how = {"dtype": config.dtype, "precision": config.precision, "attention": attention}
    return how | {"remat": config.remat, "frozen": frozen}


def agreed_attention(name: str, console: Console) -> str:
    """`name`, but "plain" for `auto` where the fused kernel was refused on any process: all compile one program."""
    kernel = fused_here()
    if name != "auto" or kernel is None:
        return name
    here = agrees(kernel)
    if hosts.everyone(here):
        return name
    if here:
        console.print("attention plain, because the fused kernel was refused on another process")
    return "plain"


def check_attention(name: str, row_length: int, head_size: int) -> None:
    """Raise `UserError` where this machine has no such kernel, or the kernel does not take these shapes."""
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
