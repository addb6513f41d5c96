"""What a tokenizer's files say beyond its vocabulary: the side to cut at, null names, tokens without an embedding."""

import json
import re

import numpy as np
import pytest
import tokenizers
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers, processors

from bert_jax import files
from bert_jax.checkpoint import write
from bert_jax.config import ENCODER
from bert_jax.errors import UserError
from bert_jax.predict import TextClassifier
from bert_jax.tokenizer import Tokenizer
from convert import export
from tests.conftest import PRIMES, VOCABULARY, random_checkpoint, write_random
from tests.tokenizer_texts import CASED, cased
from train.config import TrainConfig
from train.data.prepare import prepare
from train.run import opening

LONG, OTHER = "The the good San i San", "good good the"
CLS, SEP = (("[CLS]", CASED.index("[CLS]")), ("[SEP]", CASED.index("[SEP]")))
PAIR = "[CLS] $A [SEP] $B:1 [SEP]:1"


def read(tokenizer, text, pair=None, **options):
    """A text's tokens by name, without the special ones around and between."""
    (tokens,) = tokenizer([text], pair and [pair], **{"max_length": 20, **options})
    return " ".join(tokenizer.backend.id_to_token(i) for i in tokens.input_ids.tolist())


def whole(directory, model=None, *, end=None, change=None, **settings):
    """A `tokenizer.json` that is taken as it is."""
    model = model or models.WordPiece({name: i for i, name in enumerate(CASED)}, unk_token="[UNK]")
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = end or processors.TemplateProcessing("[CLS] $A [SEP]", PAIR, [CLS, SEP])
    if change:
        change(backend)
    directory.mkdir()
    backend.save(str(directory / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **settings}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory


def left_in_json(directory):
    """A BERT tokenizer whose `tokenizer.json` truncates at the left."""
    path = cased(directory, "json") / "tokenizer.json"
    backend = tokenizers.Tokenizer.from_file(str(path))
    backend.enable_truncation(30, direction="left")
    backend.save(str(path))
    return directory


@pytest.mark.parametrize("said", ["settings", "json", "whole"])
def test_texts_are_cut_at_the_side_that_the_tokenizer_says(said, tmp_path):
    directory = {
        "settings": lambda: cased(tmp_path / "a", "vocab", truncation_side="left"),
        "json": lambda: left_in_json(tmp_path / "a"),
        "whole": lambda: whole(tmp_path / "a", change=lambda backend: backend.enable_truncation(9, direction="left")),
    }[said]()
    tokenizer = Tokenizer.load(directory)
    assert read(tokenizer, LONG, max_length=5) == "[CLS] San i San [SEP]"
    assert read(tokenizer, LONG, OTHER, max_length=8) == "[CLS] San i San [SEP] good the [SEP]"
    assert read(tokenizer, LONG, max_length=5, long_texts="head") == "[CLS] The the good [SEP]"
    assert [len(tokens.input_ids) for tokens in tokenizer.stream([LONG], max_length=4)] == [4]
    settings = json.loads((directory / "tokenizer_config.json").read_text())
    (directory / "tokenizer_config.json").write_text(json.dumps({**settings, "truncation_side": "right"}))
    assert read(Tokenizer.load(directory), LONG, max_length=5) == "[CLS] The the good [SEP]"


@pytest.mark.parametrize("side", ["top", None, ["left"]])
def test_a_side_that_is_none_is_refused(side, tmp_path):
    with pytest.raises(UserError, match=r"truncation_side is .*; expected 'left' or 'right'"):
        Tokenizer.load(cased(tmp_path / "a", "vocab", truncation_side=side))


@pytest.fixture
def left(tmp_path):
    """An encoder, and a classifier that was not trained here, whose tokenizer truncates at the left."""
    made = random_checkpoint(PRIMES, tmp_path / "files")
    made.files["tokenizer_config.json"] = b'{"truncation_side": "left"}'
    bare = random_checkpoint(PRIMES.replace(architecture=ENCODER, labels=()), tmp_path / "files")
    bare.files.update(made.files)
    for name, one in (("classifier", made), ("encoder", bare)):
        with files.new_directory(tmp_path / name) as scratch:
            write(scratch, one)
    return tmp_path


def test_a_classifier_reads_the_side_that_its_tokenizer_says(left):
    classifier = TextClassifier.load(left / "classifier")
    assert classifier.cutting.long_texts == "tail"
    (cut,) = classifier(["good bad film not a the"], max_length=5)
    (end,) = classifier(["not a the"])
    (head,) = classifier(["good bad film not a the"], max_length=5, long_texts="head")
    assert cut.logits == pytest.approx(end.logits, abs=1e-5)
    assert head.logits != pytest.approx(end.logits, abs=1e-5)


def test_training_reads_the_side_that_the_tokenizer_says(left, tmp_path):
    rows = [("good bad film not a the", i % 2) for i in range(8)]
    tables, model = {"train": rows, "dev": rows}, str(left / "encoder")
    options = {"model": model, "max_length": 5, "out": str(tmp_path / "run")}
    said, told = TrainConfig(**options), TrainConfig(**options, long_texts="head")
    expected = {"tail": ["[CLS]", "not", "a", "the", "[SEP]"], "head": ["[CLS]", "good", "bad", "film", "[SEP]"]}
    for config, long_texts in ((said, "tail"), (told, "head")):
        made = prepare(config, tables)
        assert made.checkpoint.metadata["long_texts"] == long_texts
        assert [VOCABULARY[i] for i in made.evaluated["dev"].examples[0].input_ids] == expected[long_texts]
        assert opening.identity(config, made)["config"]["long_texts"] == long_texts
    # The export says what the training read, and what reads it here takes it from there.
    for config in (said, told):
        made = prepare(config, tables).checkpoint
        kept = export.completed(made, Tokenizer.of(made.files, left), trained=True)
        assert Tokenizer.of(kept.files, left).long_texts == made.metadata["long_texts"]


def test_a_run_goes_on_whether_or_not_its_default_is_said(left, tmp_path):
    rows = [("good bad film not a the", i % 2) for i in range(8)]
    tables, out = {"train": rows, "dev": rows}, tmp_path / "run"
    options = {"model": str(left / "encoder"), "max_length": 9, "out": str(out)}
    config = TrainConfig(**options)
    out.mkdir()
    before = {**opening.identity(config, prepare(config, tables)), "steps": 5, "examples": {"train": 8}}
    (out / "run.json").write_text(json.dumps(before))
    opening.open_run(config, tables)
    opening.open_run(TrainConfig(**options, long_texts="tail"), tables)
    with pytest.raises(UserError, match="the run there has --long-texts tail, now head"):
        opening.open_run(TrainConfig(**options, long_texts="head"), tables)


def test_a_null_name_is_no_special_token(tmp_path):
    plain = Tokenizer.load(cased(tmp_path / "plain", "vocab"))
    null = Tokenizer.load(cased(tmp_path / "null", "vocab", mask_token=None, pad_token=None))
    assert read(plain, "the [MASK] [PAD]") == "[CLS] the [MASK] [PAD] [SEP]"
    assert "[MASK]" not in read(null, "the [MASK] [PAD]")
    assert "[PAD]" not in read(null, "the [MASK] [PAD]")
    (tmp_path / "plain" / "special_tokens_map.json").write_text('{"mask_token": null}')
    assert "[MASK]" not in read(Tokenizer.load(tmp_path / "plain"), "the [MASK]")
    made = random_checkpoint(PRIMES, tmp_path / "files")
    made.files["tokenizer_config.json"] = b'{"mask_token": null}'
    kept = export.completed(made, Tokenizer.of(made.files, tmp_path), trained=False)
    assert "[MASK]" not in read(Tokenizer.of(kept.files, tmp_path), "the [MASK]")


@pytest.mark.parametrize("kind", ["unk", "cls", "sep"])
@pytest.mark.parametrize("value", [None, ""])
def test_a_null_name_that_texts_need_is_refused(kind, value, tmp_path):
    with pytest.raises(UserError, match=rf"{kind}_token is {json.dumps(value)}; expected the name of a token"):
        Tokenizer.load(cased(tmp_path / "a", "vocab", **{f"{kind}_token": value}))


@pytest.mark.fault(92)
@pytest.mark.parametrize("kind", ["MASK", "PAD"])
def test_a_vocabulary_may_lack_a_special_token_until_a_text_holds_it(kind, tmp_path):
    kept = [token for token in VOCABULARY if token != f"[{kind}]"]
    made = random_checkpoint(PRIMES.replace(vocab_size=len(kept)), tmp_path / "files")
    made.files["vocab.txt"] = "\n".join(kept).encode()
    with files.new_directory(tmp_path / "model") as scratch:
        write(scratch, made)
    said = rf"text 'the \[{kind}\] ?.*token '\[{kind}\]' has id 12 but vocab_size is 12; resize .* or remove the token"
    classifier = TextClassifier.load(tmp_path / "model")
    assert len(classifier(["good film", "the film"])) == 2
    for ask in (classifier, lambda texts: Tokenizer.load(tmp_path / "model")(texts, max_length=9)):
        with pytest.raises(UserError, match=said):
            ask(["good film", f"the [{kind}] " + "very " * 99])
    assert len(Tokenizer.of(made.files, tmp_path)([f"[{kind}]"], max_length=9)) == 1  # fits no model yet


@pytest.mark.parametrize("special", [True, False])
def test_a_token_that_texts_are_meant_to_hold_needs_an_embedding(special, tmp_path):
    added = {str(len(CASED)): {"content": "«new»", "special": special}}
    tokenizer = Tokenizer.load(cased(tmp_path / "a", "vocab", added_tokens_decoder=added))
    config = PRIMES.replace(vocab_size=len(CASED))
    if special:
        tokenizer.check_fits(config, "HERE")
        with pytest.raises(UserError, match=f"text 'a «new»': token '«new»' has id {len(CASED)}"):
            tokenizer(["a «new»"], max_length=9)
    else:
        with pytest.raises(UserError, match=f"HERE: token '«new»' has id {len(CASED)} but vocab_size is {len(CASED)}"):
            tokenizer.check_fits(config, "HERE")


def test_special_tokens_around_texts_need_an_embedding_and_their_types_too(tmp_path):
    config, size = PRIMES.replace(vocab_size=len(CASED)), len(CASED)
    end = processors.TemplateProcessing("<s> $A", "<s> $A $B", [("<s>", size)])
    one = Tokenizer.load(whole(tmp_path / "a", end=end, bos_token="<s>"))
    with pytest.raises(UserError, match=f"token '<s>' has id {size} but vocab_size is {size}"):
        one.check_fits(config, "HERE")
    end = processors.TemplateProcessing("[CLS] $A", "[CLS] $A $B:2", [CLS])
    two = Tokenizer.load(whole(tmp_path / "b", end=end, model_input_names=["input_ids", "token_type_ids"]))
    with pytest.raises(UserError, match="gives token type 2 but type_vocab_size is 2"):
        two.check_fits(config, "HERE")
    two.check_fits(config.replace(type_vocab_size=3), "HERE")


def test_the_padding_of_a_tokenizer_names_a_special_token(tmp_path):
    """As transformers takes it from there, if its settings name none."""
    pad = lambda backend: backend.enable_padding(pad_token="San")  # noqa: E731
    assert read(Tokenizer.load(whole(tmp_path / "a", change=pad)), "theSan") == "[CLS] the San [SEP]"
    said = whole(tmp_path / "b", change=pad, pad_token="good")
    assert read(Tokenizer.load(said), "theSan") == "[CLS] the ##S ##a ##n [SEP]"


def pieces(*names):
    return models.Unigram([(name, -1.0) for name in ("[CLS]", "[SEP]", "[UNK]", *names)], unk_id=2)


def test_a_tokenizer_that_came_from_sentencepiece_is_read(tmp_path):
    def change(backend):
        backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.add_tokens([AddedToken("<mask>", special=True)])

    end = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]", [("[CLS]", 0), ("[SEP]", 1)])
    tokenizer = Tokenizer.load(whole(tmp_path / "a", pieces("▁the", "▁", "g", "o", "d"), end=end, change=change))
    assert read(tokenizer, "the   god<mask>") == "[CLS] ▁the ▁ g o d <mask> [SEP]"


def test_ids_drawn_at_random_are_refused(tmp_path):
    table = {name: i for i, name in enumerate(CASED)}
    model = models.BPE(table, [], dropout=0.5, unk_token="[UNK]")
    with pytest.raises(UserError, match=r"tokenizer\.json: dropout is 0\.5: ids would be drawn at random"):
        Tokenizer.load(whole(tmp_path / "a", model))


@pytest.mark.parametrize("name", ["vocab", "fast_tokenizer_files", "fix_mistral_regex"])
def test_settings_that_replace_the_vocabulary_or_the_file_are_refused(name, tmp_path):
    with pytest.raises(UserError, match=f"{name} is set, which is not supported"):
        Tokenizer.load(cased(tmp_path / "a", "vocab", **{name: ["tokenizer.4.0.json"]}))


def test_a_window_has_the_room_that_the_tokenizers_own_special_tokens_leave(tmp_path):
    config = PRIMES.replace(vocab_size=len(CASED))
    model = write_random(config.replace(architecture=ENCODER, labels=()), tmp_path)
    whole(tmp_path / "other", end=processors.RobertaProcessing(SEP, CLS))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (model / name).write_bytes((tmp_path / "other" / name).read_bytes())
    rows = [("The the good", "San", i % 2) for i in range(8)]
    options = {"model": str(model), "max_length": 9, "long_texts": "windows"}
    tables = {name: [{"text": a, "pair": b, "label": c} for a, b, c in rows] for name in ("train", "dev")}
    prepare(TrainConfig(**options, stride=5), tables)
    with pytest.raises(UserError, match=re.escape("--stride is 6; expected at most 5, the tokens of a window")):
        prepare(TrainConfig(**options, stride=6), tables)
    made = random_checkpoint(config, tmp_path / "files")
    made.metadata.update(max_length="9", long_texts="windows", stride="6")
    classifier = TextClassifier(made, Tokenizer.load(tmp_path / "other"))
    with pytest.warns(UserWarning, match="leave 5 to a window: they begin 2 apart"):
        (found,) = classifier(["The the good"], ["San"])
    assert np.isfinite(found.logits).all()
