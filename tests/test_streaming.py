"""Predictions as a stream: in order, overlapped, in bounded memory, and stopped without a trace."""

import itertools
import json
import os
import pty
import signal
import subprocess
import sys
import threading
import tracemalloc

import numpy as np
import pytest

from bert_jax import predict
from bert_jax.__main__ import main
from bert_jax.errors import UserError
from bert_jax.predict import TextClassifier
from tests.conftest import ROOT
from tests.processes import PATIENCE


@pytest.fixture(scope="module")
def classifier(primes_directory):
    return TextClassifier.load(primes_directory)


@pytest.fixture
def small_windows(monkeypatch):
    monkeypatch.setattr(predict, "window_texts", lambda: 128)


def helpers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("bert_jax")]


def numbered(count=None):
    for i in itertools.count() if count is None else range(count):
        yield f"{'very ' * (i % 23)}good film {i}"


def test_the_order_is_kept_over_windows_and_row_lengths(classifier, small_windows):
    texts = list(numbered(700))
    texts[::97] = ["bad " * 65] * len(texts[::97])  # rows of 128 beside those of 64
    got = list(classifier.stream(iter(texts)))
    assert [p.text for p in got] == texts
    for i in (0, 1, 127, 128, 500, 699):
        np.testing.assert_allclose(got[i].logits, classifier([texts[i]])[0].logits, atol=1e-5)


def test_no_more_than_three_windows_are_read_ahead(classifier, small_windows):
    read = 0

    def endless():
        nonlocal read
        for text in numbered():
            read += 1
            yield text

    stream = classifier.stream(endless())
    for _ in range(3):
        for _ in range(128):
            next(stream)
        assert helpers()
    assert read <= 6 * 128
    stream.close()
    assert not helpers()


def test_the_next_window_is_prepared_before_the_first_is_answered(classifier, small_windows, monkeypatch):
    prepared = []
    prepare = classifier._prepare

    def watched(inputs, **options):
        prepared.append(threading.current_thread())
        return prepare(inputs, **options)

    monkeypatch.setattr(classifier, "_prepare", watched)
    stream = classifier.stream(numbered(1000))
    next(stream)
    assert len(prepared) >= 2
    assert threading.main_thread() not in prepared
    stream.close()


def test_long_texts_end_a_window_early(classifier, small_windows, monkeypatch):
    sizes = []
    prepare = classifier._prepare
    monkeypatch.setattr(
        classifier, "_prepare", lambda inputs, **options: sizes.append(len(inputs)) or prepare(inputs, **options)
    )
    assert len(list(classifier.stream(["bad " * 2048] * 20))) == 20  # 8,192 characters each; 32,768 a window
    assert sizes == [4] * 5


def test_interactive_answers_before_it_reads_on(classifier):
    log = []

    def asked():
        for text in ("good", "bad", "film"):
            log.append(text)
            yield text

    for prediction in classifier.stream(asked(), interactive=True):
        log.append(prediction.label)
    assert log[::2] == ["good", "bad", "film"]


@pytest.mark.parametrize("good", [0, 5, 128, 1000])
def test_an_error_of_the_input_reaches_the_reader(classifier, small_windows, good):
    def failing():
        yield from numbered(good)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(classifier.stream(failing()))
    assert not helpers()


def test_an_error_of_the_thread_reaches_the_reader(classifier, small_windows):
    with pytest.raises(UserError, match=r"texts\[1000\] is 7; expected a string"):
        list(classifier.stream([*numbered(1000), 7, *numbered(1000)]))  # pyright: ignore[reportArgumentType]
    assert not helpers()


def test_pairs_must_be_as_many_as_texts(classifier):
    with pytest.raises(ValueError, match="2 texts but 1 pairs"):
        classifier(["a", "the"], ["good"])
    with pytest.raises(ValueError, match="shorter"):
        list(classifier.stream(iter(["a", "the"]), iter(["good"])))
    with pytest.raises(TypeError, match="list of texts"):
        classifier(["a"], "b")


def test_mistakes_are_found_before_anything_is_read(classifier):
    with pytest.raises(TypeError, match="list of texts"):
        classifier.stream("a good film")


def test_memory_does_not_grow_with_the_input(primes_directory, tmp_path, small_windows):
    peaks = []
    main(["--model", str(primes_directory), "good"])  # what is loaded once is not counted
    for count in (1_000, 10_000):
        source, out = tmp_path / f"{count}.txt", tmp_path / f"{count}.jsonl"
        source.write_text("\n".join(numbered(count)))
        tracemalloc.start()
        main(["--model", str(primes_directory), "--input", str(source), "--output", str(out)])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        with out.open() as lines:
            assert sum(1 for _ in lines) == count
    # 9,000 predictions held would be 7 MB more; what the garbage collector has not seen yet is under 1 MB.
    assert peaks[1] - peaks[0] < 2_000_000


def command(directory, *options, **settings):
    words = [sys.executable, "-m", "bert_jax", "--model", str(directory), *options]
    # A shell's background jobs, and what they start, ignore Ctrl-C; here it must arrive.
    return subprocess.Popen(words, cwd=ROOT, preexec_fn=_heed_interrupt, **settings)


def _heed_interrupt():
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_interrupted_in_the_middle_it_ends_and_leaves_nothing(primes_directory, tmp_path):
    source, out = tmp_path / "in.txt", tmp_path / "out.jsonl"
    os.mkfifo(source)
    process = command(primes_directory, "--input", str(source), "--output", str(out), stderr=subprocess.PIPE)
    with source.open("w") as feed:
        for text in numbered(20_000):  # more than is read ahead: the first windows have been computed
            feed.write(text + "\n")
        feed.flush()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (130, b"")
    assert [path.name for path in tmp_path.iterdir()] == ["in.txt"]


def test_a_terminal_is_answered_line_by_line(primes_directory):
    ours, theirs = pty.openpty()
    process = command(primes_directory, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    os.close(theirs)
    assert process.stdout is not None
    for text in ("good film", "bad film"):
        os.write(ours, f"{text}\n".encode())
        assert json.loads(process.stdout.readline())["text"] == text  # though the input has not ended
    process.send_signal(signal.SIGINT)  # while it waits for the next line
    _, errors = process.communicate(timeout=PATIENCE)
    os.close(ours)
    assert (process.returncode, errors) == (130, b"")
