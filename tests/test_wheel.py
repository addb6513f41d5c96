"""What pip installs: a wheel of bert_jax alone with the packages that it imports, and extras for a clone's commands."""

import ast
import importlib.metadata
import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from typing import NamedTuple

import pandas
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bert_jax.config import ENCODER
from bert_jax.extras import EXTRAS
from bert_jax.files import new_directory
from convert import huggingface
from tests.conftest import PRIMES, ROOT, random_checkpoint, write_reviews
from tests.test_structure import ALLOWED, imports_of

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

MODULES = {"orbax-checkpoint": "orbax"}
"""Modules that are called otherwise than their packages."""

NOT_IMPORTED = {"pandas"}
"""Packages that are needed and not imported: pyarrow reads times in nanoseconds with pandas."""


def expanded(requirements):
    """The requirements with those of our own extras in place of the extras."""
    for text in requirements:
        one = Requirement(text)
        if one.name == "bert_jax":
            for extra in one.extras:
                yield from expanded(PROJECT["optional-dependencies"][extra])
        else:
            yield text


def packages(*requirements):
    return {Requirement(text).name for text in expanded(requirements)}


def canonical(*requirements):
    return {canonicalize_name(name) for name in packages(*requirements)}


def modules(*requirements):
    return {MODULES.get(name, name) for name in packages(*requirements)}


def imported(folder, *, always=False):
    """The modules of others that a folder imports: all of them, or only those outside of functions."""
    found = set()
    for path in sorted((ROOT / folder).rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if always:
            tree = ast.Module([node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)], [])
        found |= set(imports_of(tree))
    return found - sys.stdlib_module_names - set(ALLOWED)


def test_the_wheel_depends_on_what_it_imports():
    always = modules(*PROJECT["dependencies"])
    assert imported("bert_jax", always=True) == always
    assert imported("bert_jax") == always | modules("bert_jax[parquet]") - NOT_IMPORTED


@pytest.mark.parametrize(
    ("folder", "others"), [("convert", {"torch", "transformers"}), ("train", modules("bert_jax[tensorboard]"))]
)
def test_an_extra_has_what_its_folder_imports(folder, others):
    own = PROJECT["optional-dependencies"][folder]
    included = {one for one in own if Requirement(one).name == "bert_jax"}
    before = modules(*PROJECT["dependencies"], *included)
    assert imported(folder) - before - others == modules(*set(own) - included)
    if folder == "train":
        assert set().union(*(Requirement(one).extras for one in included)) == {"convert", "parquet"}


def test_errors_name_the_packages_of_pyproject():
    for extra, names in EXTRAS.items():
        assert len(names) == len(set(names))
        assert set(names) == packages(f"bert_jax[{extra}]")


def test_packages_of_the_project_are_named():
    named = packages(*PROJECT["dependencies"], "bert_jax[train]")
    assert named >= {"jax", "flax", "optax", "orbax-checkpoint", "tokenizers", "datasets", "safetensors"}


def closure(requirements, without=()):
    """The installed packages that these requirements bring, by name."""
    found, seen = {}, set()
    waiting = [(Requirement(text), frozenset()) for text in expanded(requirements)]
    while waiting:
        one, asked = waiting.pop()
        name = canonicalize_name(one.name)
        wanted = one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in ("", *asked))
        if name in without or not wanted or (name, frozenset(one.extras)) in seen:
            continue
        seen.add((name, frozenset(one.extras)))
        found[name] = importlib.metadata.distribution(name)
        waiting += [(Requirement(text), frozenset(one.extras)) for text in found[name].requires or ()]
    return found


class Wheel(NamedTuple):
    """A wheel that is unpacked in a venv of its own, and its requirements."""

    names: list[str]
    python: str
    site: str
    requires: list[str]

    def run(self, folder, requirements, *words, at, without=()):
        """Run Python with the packages that `requirements` bring and no others."""
        folder.mkdir(exist_ok=True)
        for one in closure(requirements, without).values():
            for top in {file.parts[0] for file in one.files or ()} - {"..", "__pycache__"}:
                if not (folder / top).exists():
                    (folder / top).symlink_to(one.locate_file(top))
        environment = {**os.environ, "PYTHONPATH": str(folder), "JAX_PLATFORMS": "cpu"}
        return subprocess.run([self.python, *words], cwd=at, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (made,) = folder.glob("*.whl")
    names = zipfile.ZipFile(made).namelist()
    venv.create(folder / "venv", with_pip=False)
    python = str(folder / "venv" / "bin" / "python")
    code = "import sysconfig; print(sysconfig.get_paths()['purelib'])"
    site = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    zipfile.ZipFile(made).extractall(site)
    (own,) = importlib.metadata.distributions(name="bert_jax", path=[site])
    return Wheel(names, python, site, [text for text in own.requires or () if "extra ==" not in text])


def test_the_wheel_holds_bert_jax_alone_and_works_with_its_dependencies(wheel, tmp_path, primes_directory):
    (information,) = {name.split("/")[0] for name in wheel.names} - {"bert_jax"}
    assert information.endswith(".dist-info")
    assert "bert_jax/py.typed" in wheel.names
    assert canonical(*wheel.requires) == canonical(*PROJECT["dependencies"])

    def run(*words):
        return wheel.run(tmp_path / "packages", wheel.requires, *words, at=tmp_path)

    code = "import bert_jax; print(bert_jax.__file__); bert_jax.TextClassifier"
    where = run("-c", code)
    assert where.stdout.startswith(wheel.site), where.stderr
    command = ["-m", "bert_jax", "--model", str(primes_directory)]
    done = run(*command, "a good film")
    assert done.returncode == 0, done.stderr
    assert '"text": "a good film"' in done.stdout
    absent = ("train", "convert", "datasets", "pyarrow", "pandas", "matplotlib", "jinja2")
    code = f"import importlib.util; print(*filter(importlib.util.find_spec, {absent}))"
    assert run("-c", code).stdout == "\n"

    pandas.DataFrame({"text": ["a film"]}).to_parquet(tmp_path / "in.parquet")
    (tmp_path / "in.csv").write_text("text\na film\n")
    for source, output in (("in.parquet", "out.jsonl"), ("in.csv", "out.parquet")):
        done = run(*command, "--input", source, "--output", output)
        file = source if source.endswith(".parquet") else output
        remedy = "a Parquet file needs pandas, pyarrow; run: pip install 'bert_jax[parquet]'"
        assert (done.returncode, done.stderr) == (2, f"error: {file}: {remedy}\n")
        assert not (tmp_path / output).exists()
    assert run(*command, "--input", "in.csv", "--output", "out.csv").returncode == 0


@pytest.mark.slow
def test_a_clone_without_an_extra_says_so(wheel, tmp_path):
    ours = canonical(*(f"bert_jax[{extra}]" for extra in EXTRAS))
    for module, extra in (
        ("convert", "convert"),
        ("convert.parity", "convert"),
        ("train", "train"),
        ("train.evaluate", "train"),
    ):
        done = wheel.run(tmp_path / "packages", wheel.requires, "-m", module, at=ROOT, without=ours)
        names = ", ".join(sorted(EXTRAS[extra]))
        expected = f"error: python -m {module} needs {names}; run: pip install -e '.[{extra}]'\n"
        assert (done.returncode, done.stderr) == (2, expected)
    code = "import train; train.fine_tune([('a', 'b')])"
    done = wheel.run(tmp_path / "packages", wheel.requires, "-c", code, at=ROOT, without=ours)
    assert f"train.fine_tune needs {', '.join(sorted(EXTRAS['train']))}; run:" in done.stderr
    # All but what the library's own dependencies bring.
    done = wheel.run(tmp_path / "more", wheel.requires, "-m", "train", at=ROOT)
    assert "needs datasets, jinja2, matplotlib, pandas, pyarrow; run: pip install -e '.[train]'" in done.stderr


@pytest.mark.slow
def test_a_clone_with_an_extra_needs_nothing_else(wheel, tmp_path):
    encoder = PRIMES.replace(architecture=ENCODER, labels=())
    with new_directory(tmp_path / "model") as scratch:
        huggingface.write(scratch, random_checkpoint(encoder, tmp_path / "files"))
    (tmp_path / "reviews").mkdir()
    write_reviews(tmp_path / "reviews", train=16, dev=8)

    def run(extra, *words):
        done = wheel.run(tmp_path / extra, [*wheel.requires, f"bert_jax[{extra}]"], "-m", *words, at=ROOT)
        assert done.returncode == 0, done.stderr

    run("convert", "convert", "--help")
    run("convert", "convert", str(tmp_path / "model"), str(tmp_path / "native"))
    run("train", "train", "--help")
    short = ["--max-length", "16"]
    where = ["--data", str(tmp_path / "reviews"), "--out"]
    run("train", "train", "--model", str(tmp_path / "native"), *where, str(tmp_path / "run"), "--epochs", "1", *short)
    run("train", "train.evaluate", "--model", str(tmp_path / "run"), *where, str(tmp_path / "report"))
