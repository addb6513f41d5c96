"""How a checkpoint turns a text into one vector: by the modules of sentence-transformers, or by pooling alone.

Nothing in this module needs JAX.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tokenizers import normalizers

from bert_jax import checkpoint as checkpoints
from bert_jax.checkpoint import Checkpoint
from bert_jax.command import check_choice
from bert_jax.config import BertConfig
from bert_jax.errors import UserError
from bert_jax.sentence_files import MODULES, POOLING_FLAGS, POOLINGS, listed_modules, model_settings, module_settings
from bert_jax.sentence_layers import Layer, check_size, read_layers, size_of
from bert_jax.tokenizer import Tokenizer
from bert_jax.tokenizer_files import merged_settings


@dataclass(frozen=True)
class SentenceModules:
    """How a text becomes a vector.

    Texts are cut to `max_length` tokens, special tokens included, and put in lower case first if `lower_case`. Token
    vectors are pooled in each way that `pooling` names, and the results are concatenated; without `include_prompt`, the
    tokens of the prompt are left out. `layers` follow. `prompts` maps names to texts that are put before a text.
    """

    pooling: tuple[str, ...]
    hidden_size: int
    max_length: int
    lower_case: bool = False
    include_prompt: bool = True
    layers: tuple[Layer, ...] = ()
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None

    @property
    def size(self) -> int:
        """The number of elements of an embedding."""
        return self.layers[-1].size if self.layers else len(self.pooling) * self.hidden_size

    def prompt(self, prompt: str | None, prompt_name: str | None) -> str:
        """Return the text to put before each text; raise `UserError` for an unknown name, or for both arguments."""
        if prompt is not None and prompt_name is not None:
            raise UserError("give --prompt or --prompt-name, not both")
        if prompt is not None:
            return prompt
        if prompt_name is not None:
            check_choice("--prompt-name", prompt_name, self.prompts)
        name = self.default_prompt_name if prompt_name is None else prompt_name
        return "" if name is None else self.prompts[name]


def read_embedder(
    directory: Path | str, pooling: str | None = None, normalize: bool | None = None
) -> tuple[Checkpoint, Tokenizer, SentenceModules]:
    """Read a native checkpoint, or a training run's best model, for a `bert_jax.Embedder`.

    The checkpoint may have a classifier, which is left out. `pooling` and `normalize` are those of `Embedder.load`.
    Warns if neither `pooling` nor a `modules.json` says how to pool. Raises `UserError` as `checkpoint.read` and
    `read_modules` do, and if the tokenizer does not fit the model.
    """
    directory = Path(directory)
    checkpoint = checkpoints.read(directory, hashed=False)
    if checkpoint.config.head is not None:
        checkpoint = checkpoints.without_classifier(checkpoint)
    tokenizer = Tokenizer.of(checkpoint.files, directory)
    tokenizer.check_fits(checkpoint.config, directory)
    modules = read_modules(checkpoint.files, checkpoint.config, directory, pooling=pooling, normalize=normalize)
    if modules.lower_case:
        _put_in_lower_case(tokenizer)
    if pooling is None and MODULES not in checkpoint.files:
        warnings.warn(
            f"{directory}: no {MODULES}, so an embedding is the mean of all token vectors, as sentence-transformers "
            "makes it with a plain BERT; choose with --pooling",
            stacklevel=3,
        )
    return checkpoint, tokenizer, modules


def _put_in_lower_case(tokenizer: Tokenizer) -> None:
    """Make the tokenizer put texts in lower case first, unless it lists that step; BERT's own step does not count.

    Source: sentence-transformers, `base/modules/transformer.py`.
    """
    normalizer = tokenizer.backend.normalizer
    steps = [] if normalizer is None else [normalizer]
    if isinstance(normalizer, normalizers.Sequence):
        steps = [normalizer[i] for i in range(len(normalizer))]
    if not any(isinstance(step, normalizers.Lowercase) for step in steps):
        tokenizer.backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *steps])


def read_modules(
    files: Mapping[str, bytes],
    config: BertConfig,
    where: Path,
    *,
    pooling: str | None = None,
    normalize: bool | None = None,
) -> SentenceModules:
    """Return what a checkpoint's files say about its embeddings.

    `files` maps relative names to contents; `where` is the directory that errors name. Without `modules.json`, the
    other files of sentence-transformers do not count, and the default of `pooling` is the mean. `normalize` adds a
    normalisation at the end, or leaves out the last module if that is one. Raises `UserError` for what is malformed or
    not supported, and for a `pooling` beside a `modules.json`.
    """
    limit, settings = config.max_position_embeddings, merged_settings(files, where)
    length = settings.get("model_max_length", settings.get("max_len"))
    length = int(min(length, limit)) if isinstance(length, int | float) and length > 0 else limit
    if MODULES not in files:
        check_choice("--pooling", pooling or "mean", POOLINGS)
        modules = SentenceModules((pooling or "mean",), config.hidden_size, length, prompts=_prompts({}))
        return _normalized(modules) if normalize else modules
    if pooling is not None:
        raise UserError(f"{where / MODULES}: says how to pool; --pooling is for a checkpoint without this file")
    (_, (folder, _), *others) = listed_modules(files, where)
    transformer, path = module_settings(files, "Transformer", "", where)
    if transformer.get("max_seq_length") is not None:
        length = min(size_of(transformer, "max_seq_length", path), limit)
    pool, path = module_settings(files, "Pooling", folder, where)
    for name in ("word_embedding_dimension", "embedding_dimension"):
        check_size(pool, name, config.hidden_size, path)
    modules = SentenceModules(
        _poolings(pool, path),
        config.hidden_size,
        length,
        lower_case=bool(transformer.get("do_lower_case")),
        include_prompt=pool.get("include_prompt", True),
    )
    for folder, kind in others:
        modules = replace(modules, layers=(*modules.layers, *read_layers(files, kind, folder, where, modules.size)))
    if normalize is False and modules.layers and modules.layers[-1].kind == "normalize":
        modules = replace(modules, layers=modules.layers[:-1])
    return _of_model(files, where, modules, normalize)


def _normalized(modules: SentenceModules) -> SentenceModules:
    """Return the modules with a normalisation at the end."""
    return replace(modules, layers=(*modules.layers, Layer("normalize", modules.size)))


def _poolings(settings: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """Return the ways to pool; raise `UserError` for an unknown one."""
    flagged = tuple(name for flag, name in POOLING_FLAGS.items() if settings.get(flag))
    chosen = settings.get("pooling_mode", flagged or "mean")
    names = [chosen] if isinstance(chosen, str) else chosen
    if not isinstance(names, list | tuple) or not names:
        raise UserError(f"{path}: pooling_mode is {chosen!r}; expected names of {', '.join(POOLINGS)}")
    for name in names:
        check_choice(f"{path}: pooling_mode", name, POOLINGS)
    return tuple(names)


def _of_model(
    files: Mapping[str, bytes], where: Path, modules: SentenceModules, normalize: bool | None
) -> SentenceModules:
    """Return the modules with the prompts of the model, and with its `truncate_dim` as a layer.

    A truncation comes before the normalisation that `normalize` asks for, as in sentence-transformers' `encode`.
    """
    settings, path = model_settings(files, where)
    prompts, name = settings.get("prompts") or {}, settings.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise UserError(f"{path}: prompts is malformed; expected names and their texts")
    modules = replace(modules, prompts=_prompts(prompts), default_prompt_name=name)
    if name is not None:
        check_choice(f"{path}: default_prompt_name", name, modules.prompts)
    if settings.get("truncate_dim") is not None:
        size = min(size_of(settings, "truncate_dim", path), modules.size)
        modules = replace(modules, layers=(*modules.layers, Layer("truncate", size)))
    if normalize and not (modules.layers and modules.layers[-1].kind == "normalize"):
        return _normalized(modules)
    return modules


def _prompts(prompts: Mapping[str, str | None]) -> dict[str, str]:
    """Return all prompts of a model; as in sentence-transformers, those for query and document are empty by default."""
    return {name: text or "" for name, text in {"query": None, "document": None, **prompts}.items()}
