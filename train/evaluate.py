"""Evaluate a model on labelled texts: metrics with confidence intervals, calibration, worst mistakes, and a report."""

import datetime
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bert_jax import extras
from bert_jax.command import PRODUCTS, Parser, printable, run
from bert_jax.errors import UserError
from bert_jax.files import check_new_directory, new_directory, write_json
from bert_jax.long_texts import LONG_TEXTS
from bert_jax.run_files import REPORT
from convert.runs import split_hashes

from .config import TrainConfig


def main(argv: list[str] | None = None) -> None:
    """Check everything that can be checked without JAX, then evaluate."""
    extras.check("train", "python -m train.evaluate")
    parser = Parser(
        prog="python -m train.evaluate",
        description=__doc__,
        epilog="""examples:
  python -m train.evaluate --model runs/reviews --data reviews/test.csv
  python -m train.evaluate --model ORG/NAME --data test.csv --out runs/theirs""",
    )
    inputs = parser.add_argument_group("what")
    inputs.add_argument("--model", required=True, metavar="DIR|ID", help="a fine-tuned model, a run, or a hub id")
    inputs.add_argument("--revision", metavar="R", help="branch, tag or commit of a hub id")
    inputs.add_argument(
        "--data", required=True, metavar="PATH|ID", help="labelled texts, as python -m train takes them"
    )
    inputs.add_argument(
        "--split", choices=("train", "dev", "test"), help="which, of data with several (default: test, else dev)"
    )
    inputs.add_argument("--data-name", metavar="NAME", help="configuration of a hub dataset")
    inputs.add_argument("--data-revision", metavar="R", help="branch, tag or commit of a hub dataset")
    for name, content, default in (
        ("text", "the text", "found"),
        ("pair", "the second text of a pair", "found, unless --text-column is given"),
        ("label", "the label", "found"),
    ):
        inputs.add_argument(f"--{name}-column", metavar="NAME", help=f"column with {content} (default: {default})")
    inputs.add_argument("--label-separator", default=",", metavar="S", help="what parts several labels in one cell")
    inputs.add_argument(
        "--skip-bad", action="store_true", help="count and leave out rows without a usable text and label"
    )
    settings = parser.add_argument_group("how")
    settings.add_argument("--max-length", type=int, metavar="N", help="tokens read at once (default: as in training)")
    settings.add_argument(
        "--long-texts", choices=LONG_TEXTS, help="what is read of longer ones (default: as in training)"
    )
    settings.add_argument("--dtype", **PRODUCTS["--dtype"])
    settings.add_argument("--precision", **PRODUCTS["--precision"])
    output = parser.add_argument_group("where")
    output.add_argument("--out", type=Path, metavar="DIR", help="directory to make (default: runs/evaluation-DATA)")
    output.add_argument("--overwrite", action="store_true", help="replace DIR if it exists")
    args = parser.parse_args(argv)

    from convert import conversion, runs

    from .data.reading import read
    from .tasks import by_number, measure, targets_of

    out = args.out or Path("runs") / f"evaluation-{Path(args.data).resolve().name.split('.')[0]}"
    check_new_directory(out, overwrite=args.overwrite)
    training_run = runs.find(args.model)
    source = conversion.read(args.model, args.revision)
    start = source.checkpoint
    if start.config.task is None:
        raise UserError(f"{args.model}: has no classifier yet; fine-tune it: python -m train --model {args.model}")
    task = start.config.task.name
    data_options = "data data_name data_revision text_column pair_column label_column label_separator skip_bad".split()
    data = read(TrainConfig(**{name: getattr(args, name) for name in data_options}), task, alone=True)
    name = args.split or next((name for name in ("test", "dev") if name in data.splits), "train")
    if name not in data.splits:
        raise UserError(f"{args.data}: no {name} split; there are: {', '.join(data.splits)}")
    split = data.splits[name]
    data = data._replace(splits={"train": split}, names=split.names or data.names)
    _, targets = targets_of(data, start.config.labels)

    from rich.console import Console

    from bert_jax.compilation import use_cache
    from bert_jax.predict import TextClassifier

    from .report import page
    from .report.console import figures_table
    from .report.statistics import absent, calibration

    use_cache()
    classifier = TextClassifier(start, source.tokenizer, args.dtype, args.precision)
    pairs = [row.pair or "" for row in split.rows] if any(row.pair is not None for row in split.rows) else None
    predictions = classifier(
        [row.text for row in split.rows], pairs, max_length=args.max_length, long_texts=args.long_texts
    )
    logits = np.array([prediction.logits for prediction in predictions], np.float32)
    metrics = measure(task, logits, targets["train"], threshold=classifier.threshold)
    cut = sum(prediction.truncated for prediction in predictions)
    measured = page.Measured(split, logits, targets["train"], metrics)
    facts = {
        "model": source.location.origin,
        "data": f"{len(split.rows):,} texts from {split.path}" + (f", {cut:,} cut" if cut else ""),
        "task": f"{task.replace('_', ' ')}: {', '.join(start.config.labels[:30])}",
    }
    warning = seen_before(split.sha256, split.files.values(), training_run.record if training_run else {})
    facts |= {"warning": warning} if warning else {}
    subject = page.Subject(
        title=f"{Path(args.model).name} on {Path(str(split.path)).name}",
        subtitle=f"Evaluated {datetime.date.today():%-d %B %Y}",
        task=task,
        labels=start.config.labels,
        facts=facts,
        command=page.as_shell(["python", "-m", "train.evaluate", *(sys.argv[1:] if argv is None else argv)]),
        hashes={**start.sha256, **split.files},
    )
    intervals = {name: measured.intervals(task)}
    text = page.render(subject, {name: measured}, intervals)
    console = Console(highlight=False, markup=False)
    with new_directory(out, overwrite=args.overwrite) as scratch:
        (scratch / REPORT).write_text(text, encoding="utf-8")
        write_json(
            scratch / "evaluation.json",
            {"facts": facts, "split": name, "metrics": metrics, "intervals": intervals[name]},
        )
    console.print(figures_table(task, {name: metrics}, intervals))
    for remark in (
        by_number(data, start.config.labels),
        absent(task, targets["train"], metrics, start.config.labels),
        warning,
    ):
        if remark:
            console.print(f"warning  {remark}", soft_wrap=True)
    if (bins := calibration(task, logits, targets["train"])) is not None:
        console.print(f"calibration        expected error {bins.error:.4f}")
    for line in page.mistakes(subject, measured, 5):
        console.print(printable(line), soft_wrap=True)
    console.print(f"wrote {out}", soft_wrap=True)


def seen_before(sha256: str, files: Collection[str], record: Mapping[str, Any]) -> str:
    """Return a warning if the run of `record` (run.json) trained, or chose its best model, on this data.

    The data are known by the SHA-256 of the split and of each of its files, as the parts of a set are files. Return an
    empty string if the run has not seen them.
    """
    seen = {name for name, digest in split_hashes(record).items() if digest == sha256}
    parts = record.get("data", {}).items()
    seen |= {name for name, hashes in parts if isinstance(hashes, Mapping) and set(hashes.values()) & set(files)}
    if "train" in seen:
        return "the model was trained on this very data: these figures say little of other texts"
    return "the best model was chosen on this very data: these figures flatter it" if "dev" in seen else ""


if __name__ == "__main__":
    run(main)
