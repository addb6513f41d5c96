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


ROOMS = ("", "tasks", "data", "step", "report", "run", "commands")
"""Where a file of train stands: each imports from its own room and those before it.

The tasks stand below the data, as reading and preview ask them what a label is; rows lie beside the rooms, below both.
"""

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


TASK_FOLDERS = (ROOT / "bert_jax" / "tasks", ROOT / "train" / "tasks")
TASKS = {path.stem for path in TASK_FOLDERS[0].glob("*.py")} & {path.stem for path in TASK_FOLDERS[1].glob("*.py")}
TASKS -= {"__init__", "task"}
"""Names of the files of the tasks, which are the same in both packages."""


def asks_for_a_task(tree):
    """Yield the line and the reason for each place of a module that knows a certain task.

    It is a task's name or option as a literal, the constant with its name, an import of its file, or a comparison with
    the default task. A literal in place of the constant would be a comparison, or the key of a table by task, which is
    a comparison in another form.
    """
    from bert_jax.tasks import TASKS as RECORDS

    literals = {text for task in RECORDS.values() for text in (task.name, task.option)}
    constants = {name.upper() for name in TASKS}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in literals:
            yield node.lineno, f"the literal {node.value!r}"
        elif isinstance(node, ast.Import | ast.ImportFrom):
            module = [*(node.module or "").split(".")] if isinstance(node, ast.ImportFrom) else []
            parts = {*module, *(part for name in node.names for part in name.name.split("."))}
            if known := sorted(parts & (constants | TASKS)):
                yield node.lineno, f"an import of {known[0]}"
        elif isinstance(node, ast.Name | ast.Attribute):
            name = node.id if isinstance(node, ast.Name) else node.attr
            if name in constants:
                yield node.lineno, f"the constant {name}"
        elif isinstance(node, ast.Compare):
            names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
            names |= {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
            if "DEFAULT" in names:
                yield node.lineno, "a comparison with the default task"


@pytest.mark.parametrize("package", ALLOWED)
def test_only_a_task_knows_that_it_is_meant(package):
    """Adding a task touches its files; elsewhere, what differs between tasks is taken from their records."""
    assert {"single_label", "multi_label", "regression"} <= TASKS
    for path in sorted((ROOT / package).rglob("*.py")):
        if path.parent not in TASK_FOLDERS:
            places = list(asks_for_a_task(ast.parse(path.read_text(encoding="utf-8"))))
            assert not places, (path, places)


def test_every_task_is_in_every_dictionary():
    import train.tasks
    from bert_jax import heads, tasks

    assert list(tasks.TASKS) == list(train.tasks.TASKS)
    assert all(train.tasks.TASKS[name].task is task for name, task in tasks.TASKS.items())
    assert set(tasks.HEADS) == set(heads.NETWORKS)
    for task in tasks.TASKS.values():
        assert tasks.task_of(task.architecture, task.problem_type) is task


@pytest.mark.parametrize(
    "source",
    [
        "if task == 'regression': pass",
        "WORDS = {'multi-label': 1}",
        "from bert_jax.tasks import SINGLE_LABEL",
        "from ..tasks.multi_label import best_threshold",
        "from ..tasks import regression",
        "from bert_jax import tasks\nprint(tasks.REGRESSION)",
        "def ask(task): return task is not DEFAULT",
    ],
)
def test_a_question_for_the_task_is_noticed(source):
    assert list(asks_for_a_task(ast.parse(source)))


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
