"""Compare what this project computes for a reference's texts with the reference, and check each error's bound."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, cast

import numpy as np

from bert_jax.checkpoint import Checkpoint
from bert_jax.packing import Rows, assign, pack
from bert_jax.tokenizer import Tokenizer

from . import reference
from .reference import Error, Quantity, Reference

RMS_RATIO, LARGEST_RATIO = 1.25, 2.0
"""Maximum ratio of our error to torch's own, for the root mean square and for the largest element.

Both apply to float32 and to bfloat16.
"""

RMS_FLOOR, LARGEST_FLOOR = 0.75, 4.0
"""Minimum of torch's own error (root mean square, largest element) in the bounds.

The unit is one unit in the last place of an array's rms, which is 2^-23 of the rms. torch's own error may be smaller by
luck; the bounds use these values instead. One LayerNorm alone makes errors of 0.7 units in the root mean square and of
6 units at most. The bound of a loss, which is one number, uses only `LARGEST_RATIO` and a minimum of one unit.
"""

GRADIENT_RATIO, GRADIENT_SHARE = 1.5, 1e-7
"""Bound of the 2-norm of a gradient's error.

The bound is `GRADIENT_RATIO` times torch's own error, plus `GRADIENT_SHARE` times the global gradient norm.
"""

STEP_BOUND, STEP_SHARE = 0.75, 2e-5
"""Bound of a parameter's error after one AdamW step from the same gradients.

The bound is `STEP_BOUND` units in the last place of the parameter, plus `STEP_SHARE` times the learning rate. Rounding
the sum takes half a unit.
"""


class Finding(NamedTuple):
    """One comparison: a quantity's name, our error, torch's own error, the bound in words, and whether it holds."""

    name: str
    ours: Error
    torch: Error
    bound: str
    holds: bool


class Answers(NamedTuple):
    """What this project computes for a reference's texts: forward quantities and gradients, by name."""

    forward: dict[str, np.ndarray]
    gradients: dict[str, np.ndarray]


def answer(
    checkpoint: Checkpoint,
    tokens: list[Any],
    dtype: str = "float32",
    precision: str = "highest",
    *,
    gradients: bool = True,
) -> Answers:
    """Run our model on packed rows, as users run it with this `dtype` and `precision`.

    The forward quantities have the reference's shapes. The loss and its gradients are computed only with `gradients`,
    and only for a classifier.
    """
    return asking(checkpoint, tokens, dtype, precision, gradients=gradients)(checkpoint.tensors)


def asking(
    checkpoint: Checkpoint,
    tokens: list[Any],
    dtype: str = "float32",
    precision: str = "highest",
    *,
    gradients: bool = True,
) -> Callable[[Mapping[str, np.ndarray]], Answers]:
    """Return `answer` as a function of native tensors that fit this checkpoint's config.

    The function compiles once for all tensors.
    """
    import jax
    from flax import nnx

    from bert_jax.compilation import compiler_options
    from bert_jax.heads import SequenceClassifier, cross_entropy
    from bert_jax.parameters import build, named_arrays

    compiled = functools.partial(jax.jit, compiler_options=compiler_options())
    lengths = [len(example.input_ids) for example in tokens]
    row_length = max(64, 1 << (max(lengths) - 1).bit_length())
    assignment = assign(lengths, row_length)
    rows = pack(tokens, assignment, row_length, len(assignment), len(tokens))
    order = np.concatenate([np.arange(first, first + n) for first, n in zip(rows.first_tokens, lengths, strict=True)])
    labels = reference.labels_for(len(tokens), max(1, len(checkpoint.config.labels)))
    weights = np.ones(len(tokens), np.float32)
    graphdef = nnx.split(build(checkpoint.config, checkpoint.tensors, dtype, precision=precision))[0]

    @compiled
    def forward(params: nnx.State, rows: Rows) -> dict[str, jax.Array]:
        network = nnx.merge(graphdef, params)
        bert = network.bert if isinstance(network, SequenceClassifier) else network
        hidden = bert.hidden_states(*rows[:4])
        out = {f"layer.{i}": h.reshape(-1, h.shape[-1]) for i, h in enumerate(hidden)}
        out["embeddings"] = out.pop("layer.0")
        if isinstance(network, SequenceClassifier):
            out |= {"pooled": bert.pool(hidden[-1], rows.first_tokens), "logits": network(rows)}
        return out

    @compiled
    def loss_and_gradients(params: nnx.State, rows: Rows) -> tuple[jax.Array, nnx.State]:
        def loss(params: nnx.State) -> jax.Array:
            classifier = cast(SequenceClassifier, nnx.merge(graphdef, params))
            return cross_entropy(classifier(rows), labels, weights)

        return jax.value_and_grad(loss)(params)

    def ask(tensors: Mapping[str, np.ndarray]) -> Answers:
        model = build(checkpoint.config, tensors, dtype, precision=precision)
        params = nnx.state(model)
        arrays = {name: np.asarray(x).astype(np.float32) for name, x in forward(params, rows).items()}
        arrays = {name: x[order] if name not in ("pooled", "logits") else x for name, x in arrays.items()}
        if not (gradients and isinstance(model, SequenceClassifier)):
            return Answers(arrays, {})
        loss, slopes = loss_and_gradients(params, rows)
        arrays["loss"] = np.asarray(loss)
        return Answers(arrays, {name: np.asarray(x) for name, x in named_arrays(slopes).items()})

    return ask


def compare(
    checkpoint: Checkpoint, tokenizer: Tokenizer, against: Reference, precision: str = "highest"
) -> Iterator[Finding]:
    """Yield every comparison, in the order of the computation.

    If `precision` is less exact than float32 on this device, the comparisons in strict float32 of the logits (or the
    last layer, without logits) and of the gradients follow. If the token ids differ, their comparison is the only one.
    """
    import jax

    tokens = [
        tokenizer(*([[part] for part in text] if isinstance(text, list) else [[text]]), max_length=against.max_length)[
            0
        ]
        for text in against.texts
    ]
    encoded = [[example.input_ids.tolist(), example.token_type_ids.tolist()] for example in tokens]
    differing = sum(a != b for a, b in zip(encoded, against.tokens, strict=True))
    yield Finding("token ids", Error(differing, differing, differing), Error(0, 0, 0), "equal", differing == 0)
    if differing:
        return  # with other token ids, every array would differ

    single = answer(checkpoint, tokens, precision=precision, gradients="loss" in against.forward)
    for name, quantity in against.forward.items():
        yield _forward(name, single.forward[name], quantity, quantity.torch_error)
    if against.gradients:
        yield from _gradients(single.gradients, against)
        yield _adamw_step(against)
    half = answer(checkpoint, tokens, "bfloat16", gradients=False)
    name = "logits" if "logits" in against.forward else list(against.forward)[-1]
    quantity = against.forward[name]
    if quantity.torch_bfloat16_error is not None:
        yield _forward(f"{name}, bfloat16", half.forward[name], quantity, quantity.torch_bfloat16_error)
    if precision == "highest" or jax.default_backend() == "cpu":  # a CPU always computes in float32
        return
    strict = answer(checkpoint, tokens)
    yield _forward(f"{name}, strict float32", strict.forward[name], quantity, quantity.torch_error)
    if against.gradients:
        for finding in _gradients(strict.gradients, against):
            yield finding._replace(name=f"{finding.name}, strict float32")


def _forward(name: str, array: np.ndarray, quantity: Quantity, torch_error: Error) -> Finding:
    our_error = reference.error(quantity.of(array) - quantity.values)
    # torch may be right to the last bit by luck, above all in a loss, which is one number.
    unit = reference.error(quantity.values).rms * 2.0**-23
    if name == "loss":
        bound = LARGEST_RATIO * max(torch_error.largest, unit)
        return Finding(name, our_error, torch_error, f"{LARGEST_RATIO:g}x", our_error.largest <= bound)
    rms, largest = max(torch_error.rms, RMS_FLOOR * unit), max(torch_error.largest, LARGEST_FLOOR * unit)
    holds = our_error.rms <= RMS_RATIO * rms and our_error.largest <= LARGEST_RATIO * largest
    return Finding(name, our_error, torch_error, f"{RMS_RATIO}x rms, {LARGEST_RATIO:g}x max", holds)


def _gradients(arrays: dict[str, np.ndarray], against: Reference) -> Iterator[Finding]:
    """Check each gradient against its own bound; yield the findings to show.

    These are all gradients that miss their bound, or the one that is nearest to it if none does, and then one finding
    for all gradients together.
    """
    norm = np.sqrt(sum(np.sum(q.values**2) for q in against.gradients.values()))
    findings = []
    for name, quantity in against.gradients.items():
        our_error = reference.error(quantity.of(arrays[name]) - quantity.values)
        bound = GRADIENT_RATIO * quantity.torch_error.norm + GRADIENT_SHARE * norm
        description = f"{GRADIENT_RATIO:g}x norm + {GRADIENT_SHARE:g}"
        finding = Finding(name, our_error, quantity.torch_error, description, our_error.norm <= bound)
        findings.append((our_error.norm / bound, finding))
    missed = [finding for share, finding in findings if not finding.holds]
    for finding in missed or [max(findings, key=lambda pair: pair[0])[1]]:
        yield finding._replace(name=f"gradient of {finding.name}")
    totals = [
        Error(0.0, max(e.largest for e in errors), float(np.sqrt(sum(e.norm**2 for e in errors))))
        for errors in zip(*((f.ours, f.torch) for _, f in findings), strict=True)
    ]
    size = sum(quantity.values.size for quantity in against.gradients.values())
    our_total, torch_total = (e._replace(rms=e.norm / size**0.5) for e in totals)
    yield Finding(f"gradients, all {len(findings)}", our_total, torch_total, "each as above", not missed)


def _adamw_step(against: Reference) -> Finding:
    """Compare one step of our AdamW from the reference's gradients with torch's, parameter by parameter.

    The error is in multiples of the bound (`_unit`).
    """
    import jax.numpy as jnp
    import optax

    from .adamw import adamw

    def column(name: str, array: np.ndarray) -> jnp.ndarray:
        # A sampled kernel has one axis. AdamW decays only parameters with two, so the second axis is restored.
        array = array.astype(np.float32)
        return jnp.asarray(array[:, None] if array.ndim == 1 and name.endswith(("kernel", "embedding")) else array)

    before = {name: column(name, pair[0]) for name, pair in against.steps.items()}
    gradients = {name: column(name, quantity.values) for name, quantity in against.gradients.items()}
    optimizer = adamw()
    updates, _ = optimizer.update(gradients, optimizer.init(before), before)
    after = cast(dict[str, jnp.ndarray], optax.apply_updates(before, updates))
    differences = [
        (np.asarray(after[name]).reshape(pair[1].shape) - pair[1]) / _unit(pair[1])
        for name, pair in against.steps.items()
    ]
    our_error = reference.error(np.concatenate([d.ravel() for d in differences]))
    return Finding("one AdamW step", our_error, Error(0, 0, 0), f"{STEP_BOUND:g} ulp + lr", our_error.largest <= 1)


def _unit(exact: np.ndarray) -> np.ndarray:
    """Return the largest allowed distance of each parameter from `exact` after one step."""
    return STEP_BOUND * np.spacing(np.abs(exact).astype(np.float32)) + STEP_SHARE * reference.LEARNING_RATE
