"""Embed strings: texts in, one vector for each out, as sentence-transformers computes it."""

import functools
from collections.abc import Generator, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from bert_jax.checkpoint import Checkpoint
from bert_jax.compilation import compiler_options
from bert_jax.config import is_whole
from bert_jax.errors import UserError
from bert_jax.logits import batch_tokens
from bert_jax.long_texts import Cutting
from bert_jax.model import Model
from bert_jax.packing import Rows, Tokens, prediction_batches
from bert_jax.parameters import build
from bert_jax.pooling import apply_layer, pool
from bert_jax.sentence_modules import SentenceModules, read_embedder
from bert_jax.streaming import Window, computed, window_texts
from bert_jax.texts import check_list, checked, whole_number
from bert_jax.tokenizer import Tokenizer, check_max_length

_SHOWN = 60
"""Maximum number of characters of a text in an error message."""


class Embedding(NamedTuple):
    """The embedding of one text, a vector in float32, and whether the text was truncated.

    `text` is the text as it was given, without the prompt.
    """

    text: str
    vector: Float[np.ndarray, " P"]
    truncated: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object for this embedding; `truncated` appears only if text was cut."""
        out: dict[str, Any] = {"text": self.text, "embedding": self.vector.tolist()}
        return out | {"truncated": True} if self.truncated else out


class Embedder:
    """A checkpoint with its tokenizer and its modules, ready to embed strings; `modules.size` is P, a vector's size."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        tokenizer: Tokenizer,
        modules: SentenceModules,
        dtype: Any = "float32",
        precision: str = "highest",
    ):
        self.config, self.tokenizer, self.modules = checkpoint.config, tokenizer, modules
        model = build(checkpoint.config, checkpoint.tensors, dtype, precision=precision)
        assert isinstance(model, Model), "the checkpoint has a classifier; leave it out with without_classifier"
        graphdef, params = nnx.split(model)
        tensors = [
            {name: jnp.asarray(tensor, jnp.float32) for name, tensor in layer.tensors.items()}
            for layer in modules.layers
        ]

        def embed(params: nnx.State, tensors: list[dict[str, Array]], skip: Int[Array, ""], rows: Rows):
            encoder = nnx.merge(graphdef, params)
            hidden = encoder(rows.input_ids, rows.token_type_ids, rows.position_ids, rows.segment_ids)
            vectors = pool(hidden, rows, modules.pooling, skip)
            for layer, arrays in zip(modules.layers, tensors, strict=True):
                vectors = apply_layer(layer, arrays, vectors)
            return vectors

        self._embed = functools.partial(jax.jit(embed, compiler_options=compiler_options()), params, tensors)

    @classmethod
    def load(
        cls,
        directory: Path | str,
        *,
        pooling: str | None = None,
        normalize: bool | None = None,
        dtype: Any = "float32",
        precision: str = "highest",
    ) -> "Embedder":
        """Load a native checkpoint with the modules of sentence-transformers, or any BERT with a `pooling`.

        `pooling` is one of `bert_jax.sentence_files.POOLINGS`. It is for a checkpoint without `modules.json`, where the
        default is the mean, with a warning. With `normalize=True`, vectors are scaled to length 1 at the end; with
        `normalize=False`, they are not, even if the last of the modules says so. `dtype` and `precision` are those of
        `bert_jax.load`. Raises `UserError` for a checkpoint that cannot be read, and for modules or settings of
        modules that are not supported.
        """
        return cls(*read_embedder(directory, pooling, normalize), dtype, precision)

    def __call__(
        self,
        texts: Iterable[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        max_length: int | None = None,
    ) -> Float[np.ndarray, "N P"]:
        """Embed texts, and return one vector for each, in their order.

        `prompt` is put before each text. `prompt_name` chooses one of the model's own prompts, `modules.prompts`; the
        model may also have a default prompt. Texts are truncated to `max_length` tokens, prompt and special tokens
        included; the default is the model's `max_seq_length`. Raises `UserError` for a text that is not a string or
        that UTF-8 cannot encode, with its index in the list, for a text with a token that the model has no embedding
        for, and for an option that the model does not take.
        """
        embeddings = self.stream(texts, prompt_name=prompt_name, prompt=prompt, max_length=max_length)
        vectors = [embedding.vector for embedding in embeddings]
        return np.stack(vectors) if vectors else np.zeros((0, self.modules.size), np.float32)

    def stream(
        self,
        texts: Iterable[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        max_length: int | None = None,
        interactive: bool = False,
    ) -> Generator[Embedding, None, None]:
        """Embed texts as they come; yield the embeddings in order of the texts, in bounded memory.

        Texts are read ahead as by `bert_jax.TextClassifier.stream`. With `interactive`, each text is embedded before
        the next text is read. Raises `UserError` as `__call__` does, and `TypeError` if `texts` is not a list of texts
        but a string, a table or a dictionary.
        """
        check_list(texts)
        chosen = self.modules.prompt(prompt, prompt_name)
        if not isinstance(chosen, str) or not is_whole(chosen):
            raise UserError(f"--prompt is {chosen!a}; expected a text")
        limit = self.modules.max_length if max_length is None else whole_number("--max-length", max_length)
        check_max_length(limit, self.config)
        cutting = Cutting(limit, self.tokenizer.long_texts)
        self.tokenizer.room(cutting, pairs=False)
        return self._stream(zip(checked("texts", texts)), chosen, cutting, interactive)

    def _stream(
        self, inputs: Iterable[tuple[str, ...]], prompt: str, cutting: Cutting, interactive: bool
    ) -> Generator[Embedding, None, None]:
        skip = 0 if self.modules.include_prompt else self._prompt_tokens(prompt, cutting)
        prepare = functools.partial(self._prepare, prompt=prompt, cutting=cutting, skip=skip)
        apply = functools.partial(self._embed, jnp.int32(skip))
        with closing(computed(apply, prepare, inputs, window_texts(), interactive=interactive)) as windows:
            for window in windows:
                for (text,), vector, truncated in zip(window.inputs, window.outputs, window.truncated, strict=True):
                    yield Embedding(text, vector, truncated)

    def _prompt_tokens(self, prompt: str, cutting: Cutting) -> int:
        """Return how many tokens of each text are the prompt's, with the special tokens before it.

        Source: sentence-transformers, `base/modules/transformer.py`, `_get_prompt_length`.
        """
        if not prompt:
            return 0
        [tokens] = self._tokens([prompt], cutting)
        last_token = self.tokenizer.backend.get_added_tokens_decoder().get(int(tokens.input_ids[-1]))
        return len(tokens.input_ids) - (last_token is not None and last_token.special)

    def _tokens(self, texts: list[str], cutting: Cutting) -> list[Tokens]:
        return [tokens for _, tokens in self.tokenizer.examples(texts, None, cutting)]

    def _prepare(self, inputs: list[tuple[str, ...]], prompt: str, cutting: Cutting, skip: int) -> Window:
        examples = self._tokens([prompt + text for (text,) in inputs], cutting)
        for (text,), tokens in zip(inputs, examples, strict=True) if skip else ():
            # sentence-transformers returns zeros here, or infinity for max pooling.
            if len(tokens.input_ids) <= skip:
                raise UserError(
                    f"text {text[:_SHOWN]!a}: none of its tokens is left beside the prompt; shorten the prompt, or end "
                    "it in a space"
                )
        return Window(
            inputs,
            np.arange(len(examples)),
            [tokens.truncated for tokens in examples],
            list(prediction_batches(examples, batch_tokens=batch_tokens())),
            np.empty((len(examples), self.modules.size), np.float32),
        )
