"""report.html: what it says, that it needs nothing else, and how it looks in a real browser."""

import dataclasses
import html.parser
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import jinja2
import matplotlib.image
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bert_jax.tasks import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from tests.processes import PATIENCE
from train.config import TrainConfig, parse
from train.report import page
from train.report.page import Measured, Subject
from train.report.statistics import calibration, intervals, worst
from train.rows import Row, Split
from train.tasks import measure

BAD = "<script>alert(1)</script> </svg> $x_ & مرحبا \U0001f600"
BROWSER = next(filter(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome")), None)
HEADLESS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-quic --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --allow-file-access-from-files"
).split()


def measured(task, count=120, classes=3):
    rng = np.random.default_rng(0)
    if task == SINGLE_LABEL:
        targets = rng.integers(0, classes, count).astype(np.int32)
        logits = rng.standard_normal((count, classes)) + 2 * np.eye(classes)[targets]
    elif task == MULTI_LABEL:
        targets = (rng.random((count, classes)) < 0.4).astype(np.float32)
        logits = rng.standard_normal((count, classes)) + 3 * (targets - 0.5)
    else:
        targets = rng.random((count, 1)).astype(np.float32)
        logits = targets + 0.2 * rng.standard_normal((count, 1))
    logits = logits.astype(np.float32)
    rows = [Row(i + 1, f"{BAD} {'very ' * i}long {i}", None, "another" if i % 2 else None) for i in range(count)]
    split = Split(Path("some/where.csv"), rows, 0, "f" * 64)
    return Measured(split, logits, targets, measure(task, logits, targets))


LOG = [
    line
    for i in range(1, 41)
    for line in (
        {"step": i, "loss": 1 / i, "grad_norm": 1.0, "learning_rate": i * 1e-6},
        *([{"step": i, "epoch": i // 10, "split": "dev", "loss": 0.5, "accuracy": i / 40}] if i % 10 == 0 else []),
    )
]


def subject(task, classes=3, **more):
    labels = [f"{BAD} {i}" for i in range(1 if task == REGRESSION else classes)]
    facts = {"model": "a model", "data": BAD}
    return Subject("reviews on MiniLM", "5 epochs", task, labels, facts, "python -m train --data x", LOG, **more)


def rendered(task, classes=3, **more):
    one = measured(task, classes=classes)
    sure = {"dev": intervals(task, one.logits, one.targets)}
    return page.render(subject(task, classes, **more), {"dev": one}, sure), one


class Outline(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.ids, self.links, self.text = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "srcset", "action") and not (value or "").startswith("#"):
                self.links.append(value)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.mark.parametrize("classes", [2, 3, 40])
@pytest.mark.parametrize("task", [SINGLE_LABEL, MULTI_LABEL, REGRESSION])
def test_the_page_is_whole_and_needs_nothing_else(task, classes):
    text, one = rendered(task, classes)
    outline = Outline(text)
    assert not outline.open
    assert "script" not in outline.tags
    assert not outline.links
    assert not re.search(r"url\((?!#)", text)
    assert len(set(outline.ids)) == len(outline.ids)
    assert {f"#{i}" for i in outline.ids} >= set(re.findall(r'(?:url\(|href=")(#[^)"]+)', text))
    assert "default-src 'none'" in text
    said = "".join(outline.text)
    for part in (
        "python -m train --data x",
        "some/where.csv: line",
        "Learning rate",
    ):
        assert part in said
    figure = {SINGLE_LABEL: "accuracy", MULTI_LABEL: "macro_f1", REGRESSION: "spearman"}[task]
    assert f"{one.metrics[figure]:.4f}" in said
    assert BAD in said
    assert len(text) < 1_000_000
    again = rendered(task, classes)[0]  # the same but for the numbers of the plots
    assert re.sub(r"\bp\d+-", "", text) == re.sub(r"\bp\d+-", "", again)


def test_a_log_without_rates_or_steps_and_no_errors():
    one = measured(SINGLE_LABEL)
    right = one._replace(logits=10 * np.eye(3, dtype=np.float32)[one.targets])
    sure = {"test": intervals(SINGLE_LABEL, right.logits, right.targets)}
    plain = subject(SINGLE_LABEL)._replace(log=[{"step": 1, "loss": 0.5, "grad_norm": 1.0}])
    assert "<p>None.</p>" in page.render(plain, {"test": right}, sure)
    assert "<h2>Training</h2>" not in page.render(plain._replace(log=[]), {"test": right}, sure)


def test_names_that_are_no_text_are_escaped():
    one = measured(SINGLE_LABEL)
    sure = {"dev": intervals(SINGLE_LABEL, one.logits, one.targets)}
    odd = subject(SINGLE_LABEL)._replace(title="a\udcff.csv", command=page.as_shell(["a", "b c\udcff"]))
    text = page.render(odd, {"dev": one}, sure)
    assert rb"<h1>a\udcff.csv</h1>" in text.encode()
    assert "a 'b c\\udcff'  # escaped: it cannot be copied from here" in "".join(Outline(text).text)


def test_an_absent_class_is_named_and_has_no_figure():
    one = measured(SINGLE_LABEL)
    few = np.flatnonzero(one.targets < 2)
    logits, targets = one.logits[few] - [0, 0, 99], one.targets[few]
    less = Measured(one.split, logits, targets, measure(SINGLE_LABEL, logits, targets))
    text = page.render(subject(SINGLE_LABEL), {"dev": less}, {"dev": intervals(SINGLE_LABEL, logits, targets)})
    said = "".join(Outline(text).text)
    assert "On dev: no text is, or is taken for, " in said
    assert 'class="n">-</td>' in text
    assert "no text is" not in "".join(Outline(rendered(SINGLE_LABEL)[0]).text)


def test_the_command_of_a_run_is_its_options():
    words = "--data a --labels no,yes --epochs 3 --remat --text-column 'the text'"
    config = parse(["--data", "a", "--labels", "no,yes", "--epochs", "3", "--remat", "--text-column", "the text"])
    found = page.command_of(config)
    assert found.startswith("python -m train ")
    assert sorted(found.split()[3:]) == sorted(words.split())
    assert page.command_of(dataclasses.replace(TrainConfig(), restart=True)) == "python -m train"


ODD = ["-", "--", "-1", "--out", "-x y", "a b", " a", "a ", "a,b", ",", "a\nb", "\r", "$HOME", "'", '"', "\\", "\x00"]
ODD += ["\xa0", "\u202e", "\udcff", "*", "# a", "a=b", "{x}", "<b>"]
TEXTS = st.one_of(st.text(min_size=1, max_size=6), st.sampled_from(ODD))
OPTIONS = {
    **dict.fromkeys(("data", "model", "out", "label_separator", "class_weights"), TEXTS),
    "text_column": st.one_of(TEXTS, st.just("")),
    "labels": st.lists(TEXTS, min_size=1, max_size=3, unique=True).map(tuple),
    "learning_rate": st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    "threshold": st.one_of(st.just("best"), st.floats(0.01, 0.99)),
    "epochs": st.integers(1, 10**9),
    **dict.fromkeys(("remat", "restart"), st.booleans()),
}


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.fixed_dictionaries({}, optional=OPTIONS))
def test_the_command_of_the_page_does_it_again(monkeypatch, options):
    config = TrainConfig(**options)
    page_text = jinja2.Template("<pre>{{ command }}</pre>", autoescape=True).render(command=page.command_of(config))
    outline = Outline(page_text.encode().decode().replace("\r", "\n"))  # as a browser reads it
    command = "".join(outline.text)
    if command.startswith("python -m train"):
        found = parse(shlex.split(command)[3:])
    else:
        monkeypatch.setattr("train.run.opening.open_run", Caught.raised)
        with pytest.raises(Caught) as caught:
            exec(command, {})
        (found,) = caught.value.args
    assert found == dataclasses.replace(config, restart=False)


class Caught(Exception):
    """Carries the options of a call."""

    @classmethod
    def raised(cls, config, tables=None):
        raise cls(config)


def test_the_command_says_what_it_cannot():
    again = page.command_of(TrainConfig(data="a b.csv", labels=("so, so", "good")))
    assert again.endswith("fine_tune('a b.csv', labels=('so, so', 'good'))  # no command says this")
    assert (
        page.command_of(TrainConfig(data="a b.csv", labels=("-1", "1")))
        == "python -m train --data 'a b.csv' --labels=-1,1"
    )
    many = {"coordinator": "a:1", "num_processes": 2, "process_id": 0}
    said = page.command_of(TrainConfig(data="a\nb.csv", **many))
    assert said.startswith(r"python -m train --data 'a\nb.csv' --coordinator a:1")
    assert said.endswith("  # escaped: it cannot be copied from here")


# --- statistics


@pytest.mark.slow
def test_intervals_hold_the_truth_about_as_often_as_they_say():
    rng, inside = np.random.default_rng(1), 0
    for seed in range(60):
        right = rng.random(300) < 0.8
        logits = np.stack([np.where(right, 1.0, -1.0), np.zeros(300)], axis=1).astype(np.float32)
        low, high = intervals(SINGLE_LABEL, logits, np.zeros(300, np.int32), seed)["accuracy"]
        assert 0.05 < high - low < 0.14  # 2 * 1.96 * sqrt(0.8 * 0.2 / 300) is 0.09
        inside += low <= 0.8 <= high
    assert inside >= 51  # of 60 at 95%; fewer than 51 would be one time in 2,000
    assert intervals(SINGLE_LABEL, logits, np.zeros(300, np.int32), 3) == intervals(
        SINGLE_LABEL, logits, np.zeros(300, np.int32), 3
    )


def test_calibration_by_hand():
    logits = np.log(np.array([[0.9, 0.1], [0.9, 0.1], [0.62, 0.38], [0.35, 0.65]], np.float32))
    found = calibration(SINGLE_LABEL, logits, np.array([0, 1, 0, 1]))
    assert found.counts.tolist() == [0, 0, 0, 0, 0, 0, 2, 0, 0, 2]
    assert found.true[[6, 9]].tolist() == [1.0, 0.5]
    assert found.stated[[6, 9]] == pytest.approx([0.635, 0.9])
    assert found.error == pytest.approx((2 * 0.365 + 2 * 0.4) / 4)
    several = calibration(MULTI_LABEL, np.array([[0.0, 50.0]], np.float32), np.array([[1, 1]], np.float32))
    assert (several.counts[5], several.counts[9], several.error) == (1, 1, pytest.approx(0.25))
    assert calibration(REGRESSION, logits, logits) is None


def test_the_worst_come_first():
    logits = np.array([[3, 0], [0, 1], [0, 9], [5, 0]], np.float32)
    assert worst(SINGLE_LABEL, logits, np.array([1, 1, 0, 0])) == [2, 0]
    assert worst(SINGLE_LABEL, logits, np.array([1, 1, 0, 0]), 1) == [2]
    assert worst(MULTI_LABEL, np.array([[1, -1], [9, -9], [1, 1]], np.float32), np.array([[0, 0], [0, 1], [1, 1]])) == [
        1,
        0,
    ]
    assert worst(REGRESSION, np.array([[1.0], [5.0]]), np.array([[1.5], [1.0]])) == [1, 0]


# --- in a browser


def shot(path, picture, *more):
    command = [BROWSER, *HEADLESS, f"--user-data-dir={picture.parent / 'profile'}", f"--screenshot={picture}", *more]
    subprocess.run([*command, path.as_uri()], check=True, capture_output=True, timeout=PATIENCE)
    return matplotlib.image.imread(picture)[..., :3]


needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs Chromium or Chrome")


def measures(text, width, directory, script):
    """Numbers that `script`, an expression of the document d, gives for a report `width` pixels wide."""
    (directory / "report.html").write_text(text, encoding="utf-8")
    # A page around it, as a browser's window is not made so narrow, asks how wide its content is.
    (directory / "frame.html").write_text(
        f"<iframe id=f src=report.html width={width} height=640 style='border:0'></iframe>"
        "<script>onload=()=>{const d=document.getElementById('f').contentDocument;"
        f"document.body.append('found '+{script}.join(' ')+' end')}}</script>"
    )
    command = [BROWSER, *HEADLESS, f"--user-data-dir={directory / 'profile'}", "--dump-dom"]
    done = subprocess.run(
        [*command, (directory / "frame.html").as_uri()], check=True, capture_output=True, text=True, timeout=PATIENCE
    )
    found = re.search(r"found ([\d .]+) end", done.stdout)
    assert found, done.stdout[-300:]
    return [float(number) for number in found[1].split()]


SIZES = "[d.documentElement.scrollWidth,d.documentElement.clientWidth,d.documentElement.scrollHeight]"


@needs_browser
@pytest.mark.parametrize("task", [SINGLE_LABEL, REGRESSION])
def test_nothing_overflows_on_a_phone(task, tmp_path):
    wide, client, tall = measures(rendered(task)[0], 360, tmp_path, SIZES)
    assert (wide, client) == (360, 360)
    assert tall > 2000


@needs_browser
def test_paper_shows_what_a_screen_would_open(tmp_path):
    text = rendered(SINGLE_LABEL, options={"seed": "1"})[0]
    closed = "[...d.querySelectorAll('details:not([open])>div')].map(x=>x.checkVisibility()?1:0)"
    assert measures(text, 720, tmp_path, closed) == [0]
    assert text.count("@media print") == 2
    paper = text.replace("@media print", "@media screen")
    assert measures(paper, 720, tmp_path, closed) == [1]
    assert measures(paper, 720, tmp_path, SIZES)[:2] == [720, 720]


@needs_browser
def test_dark_where_that_is_asked_for(tmp_path):
    (tmp_path / "report.html").write_text(rendered(SINGLE_LABEL)[0], encoding="utf-8")
    light = shot(tmp_path / "report.html", tmp_path / "light.png", "--window-size=900,1800")
    dark = shot(
        tmp_path / "report.html",
        tmp_path / "dark.png",
        "--window-size=900,1800",
        "--blink-settings=preferredColorScheme=0",
    )
    assert light[0, 0].min() > 0.95
    assert dark[0, 0].max() < 0.15
    # Plots too: nowhere is there a white field, and there is as much ink as on the light page.
    assert (dark.min(axis=2) > 0.9).mean() < 0.02
    ink = [(np.abs(picture - picture[0, 0]).max(axis=2) > 0.4).mean() for picture in (light, dark)]
    assert ink[1] == pytest.approx(ink[0], rel=0.5)
