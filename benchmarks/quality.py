"""Dev scores beside transformers on torch: the same checkpoint, new layer, batches and recipe, over several seeds.

What differs is which elements dropout leaves out, and how numbers are rounded.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from bert_jax.checkpoint import with_classifier
from bert_jax.command import MINILM, Parser, run
from bert_jax.config import REGRESSION, SINGLE_LABEL
from bert_jax.run_files import LOG
from convert import conversion
from convert.location import locate
from train.config import TrainConfig
from train.data.labels import targets_of
from train.data.reading import read
from train.metrics import METRICS, measure
from train.step.batches import shuffled


def main(argv: list[str] | None = None) -> None:
    """Train both on each data set with each seed, and print a JSON line of every score."""
    parser = Parser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("--data", nargs="+", required=True, metavar="PATH", help="data sets with train and dev files")
    parser.add_argument("--model", default=MINILM, metavar="DIR|ID", help="checkpoint to start from")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="seeds to train with")
    parser.add_argument("--epochs", type=int, default=3, metavar="N", help="passes over the training examples")
    parser.add_argument("--learning-rate", type=float, default=5e-5, metavar="X", help="peak learning rate")
    parser.add_argument("--theirs", metavar="PYTHON", default=sys.executable, help="an interpreter with transformers")
    parser.add_argument("--worker", action="store_true", help="train transformers here, and nothing else")
    args = parser.parse_args(argv)
    if args.worker:
        (data,) = args.data
        print(json.dumps(torch_scores(args.model, data, args.seeds[0], args.epochs, args.learning_rate)))
        return
    for seed in args.seeds:
        for data in args.data:
            recipe = ["--epochs", str(args.epochs), "--learning-rate", str(args.learning_rate), "--model", args.model]
            with tempfile.TemporaryDirectory() as scratch:
                words = ["-m", "train", "--data", data, "--out", f"{scratch}/run", "--seed", str(seed), *recipe]
                subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
                lines = [json.loads(line) for line in Path(scratch, "run", LOG).read_text().splitlines()]
            ours = [line for line in lines if "epoch" in line][-1]
            words = ["-m", "benchmarks.quality", "--data", data, "--worker", "--seeds", str(seed), *recipe]
            done = subprocess.run([args.theirs, *words], check=True, stdout=subprocess.PIPE, text=True)
            theirs = json.loads(done.stdout.splitlines()[-1])
            for who, found in (("bert_jax", ours), ("transformers", theirs)):
                scores = {n: v for n, v in found.items() if isinstance(v, float) or n == "f1"}
                print(json.dumps({"data": Path(data).name, "seed": seed, "who": who, **scores}), flush=True)


def torch_scores(model: str, data: str, seed: int, epochs: int, learning_rate: float) -> dict:
    """The metrics on dev after the last epoch of a plain training loop; padded to the longest text of each batch."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, get_linear_schedule_with_warmup

    config = TrainConfig(data=data, seed=seed)
    found = read(config)
    names, targets = targets_of(found)
    torch.manual_seed(seed)
    directory = locate(model).directory
    tokenizer = AutoTokenizer.from_pretrained(directory)
    net = AutoModelForSequenceClassification.from_pretrained(directory, num_labels=len(names), problem_type=found.task)
    start, _ = with_classifier(conversion.read(model).checkpoint, names, seed, found.task)
    with torch.no_grad():
        net.classifier.weight.copy_(torch.tensor(start.tensors["classifier.kernel"].T))
        net.classifier.bias.copy_(torch.tensor(start.tensors["classifier.bias"]))
    spared = ("bias", "LayerNorm.weight")
    groups = [
        {"params": [p for n, p in net.named_parameters() if n.endswith(spared) == spare], "weight_decay": decay}
        for spare, decay in ((True, 0.0), (False, config.weight_decay))
    ]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate)
    count = -(-len(targets["train"]) // config.batch_size)
    schedule = get_linear_schedule_with_warmup(optimizer, round(config.warmup * epochs * count), epochs * count)

    def batch(split: str, chosen: np.ndarray) -> dict:
        rows = [found.splits[split].rows[i] for i in chosen]
        pairs = [row.pair for row in rows] if rows[0].pair is not None else None
        encoded = tokenizer(
            [row.text for row in rows], pairs, truncation=True, max_length=config.max_length, padding=True
        )
        encoded = {name: torch.tensor(value) for name, value in encoded.items()}
        return encoded | {"labels": torch.tensor(targets[split][chosen]).to(torch.long if single else torch.float32)}

    single = found.task == SINGLE_LABEL
    net.train()
    for epoch in range(epochs):
        order = shuffled(len(targets["train"]), seed, epoch)
        for first in range(0, len(order), config.batch_size):
            inputs = batch("train", order[first : first + config.batch_size])
            if found.task == REGRESSION:
                inputs["labels"] = inputs["labels"][:, 0]
            net(**inputs).loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), config.clip_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    net.eval()
    with torch.inference_mode():
        indices = np.arange(len(targets["dev"]))
        parts = [batch("dev", indices[first : first + 64]) for first in range(0, len(indices), 64)]
        logits = [net(**{k: v for k, v in part.items() if k != "labels"}).logits.numpy() for part in parts]
    metrics = measure(found.task, np.concatenate(logits), targets["dev"])
    return {name: metrics[name] for name in (*METRICS[found.task], *(["f1"] if "f1" in metrics else []))}


if __name__ == "__main__":
    run(main)
