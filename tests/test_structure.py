"""The house: imports run one way, each name has one home, the command line is frozen."""

import ast
import subprocess
import sys

import pytest

from tests.conftest import ROOT

ALLOWED = {"bert_jax": set(), "convert": {"bert_jax"}, "train": {"bert_jax", "convert"}}


def imports(path):
    return imports_of(ast.parse(path.read_text(encoding="utf-8")))


def imports_of(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").split(".")[0]


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_run_one_way(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        found = set(imports(path)) & (set(ALLOWED) | {"tests", "benchmarks"})
        # Siblings are imported relatively, except in the library itself.
        assert found <= ALLOWED[package] | ({"bert_jax"} if package == "bert_jax" else set()), path


READERS = {"train/data/prepare.py": {"conversion"}, "train/evaluate.py": {"conversion", "runs"}}
"""The files of train that import convert, and what of it: both read a model from any source, and evaluation a run."""


def test_train_imports_convert_only_to_read_a_source():
    found = {}
    for path in sorted((ROOT / "train").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [name.name for name in getattr(node, "names", ())] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [f"{node.module}.{name.name}" for name in node.names]
            parts = {name.split(".")[1] for name in names if name.startswith("convert.")}
            found.setdefault(path.relative_to(ROOT).as_posix(), set()).update(parts)
    assert {path: parts for path, parts in found.items() if parts} == READERS


ROOMS = ("", "data", "step", "report", "run", "commands")
"""Where a file of train stands: each imports from its own room and those before it."""

COMMANDS = ("__init__.py", "__main__.py", "evaluate.py")


def room_of(name):
    """The room that a part of train is, or in which a file beside the rooms stands."""
    return name if name in ROOMS else "commands" if f"{name}.py" in COMMANDS else ""


@pytest.mark.parametrize("path", sorted((ROOT / "train").rglob("*.py")), ids=lambda path: path.stem)
def test_rooms_of_train_import_one_way(path):
    parts = path.relative_to(ROOT / "train").with_suffix("").parts
    room = ROOMS.index(room_of(parts[0]))
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        folders = parts[: len(parts) - node.level]
        for name in node.names:
            target = (*folders, *(node.module or name.name).split("."))
            assert ROOMS.index(room_of(target[0])) <= room, target


@pytest.mark.parametrize("package", ALLOWED)
def test_torch_stays_outside(package):
    for path in sorted((ROOT / package).rglob("*.py")):
        found = {"torch", "transformers"} & set(imports(path))
        assert not found or path.name == "torch_answers.py", path


OTHER_MEANINGS = {
    "bert_jax/extras.py": ["tensorboard"],
    "train/config.py": ["best"],
    "train/run/opening.py": ["tensorboard"],
}
"""Words in the code that are also names of a run's files: extras, and a value of --threshold."""


def test_names_of_a_run_s_files_are_written_once():
    from bert_jax import run_files

    names = {value for name, value in vars(run_files).items() if name.isupper()}
    assert "run.json" in names
    for package in ALLOWED:
        for path in sorted((ROOT / package).rglob("*.py")):
            tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            found = [node.value for node in tree if isinstance(node, ast.Constant) and node.value in names]
            others = OTHER_MEANINGS.get(path.relative_to(ROOT).as_posix(), [])
            assert found == others or path.name == "run_files.py", path


def test_library_imports_without_jax():
    code = "import sys, bert_jax.checkpoint, convert.__main__, train.data.prepare; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_public_names_exist():
    import bert_jax

    assert sorted(bert_jax._HOME) == sorted(bert_jax.__all__)
    assert all(getattr(bert_jax, name).__doc__ for name in bert_jax.__all__)
    assert not hasattr(bert_jax, "nothing")


def test_version_is_said_once_truly():
    import tomllib

    import bert_jax

    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == bert_jax.__version__


def test_options_of_train_are_these():
    import dataclasses

    from train.config import TrainConfig

    options = """
        model revision new_classifier new_pooler
        data data_name data_revision text_column pair_column label_column labels label_separator dev_fraction
        split_seed skip_bad inspect
        task class_weights threshold label_smoothing metric patience
        max_length long_texts stride
        epochs batch_size learning_rate warmup weight_decay clip_norm layer_decay freeze_embeddings freeze_layers
        dtype precision seed
        out restart checkpoint_every tensorboard
        parallel model_parallel shard_parameters accumulate remat attention steps_per_dispatch
        distributed coordinator num_processes process_id join_timeout
    """
    assert [field.name for field in dataclasses.fields(TrainConfig)] == options.split()
