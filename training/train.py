"""python -m training.train: trains for a time, saves, evaluates, exports. Started again, it goes on where it stopped.

The learning rate follows the planned time (--plan), so a run may be cut into several commands of --seconds each.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from training import evaluate, export, model, tokenizer
from training.packing import Packer
from training.trainer import Trainer


def main() -> None:
    arguments = _arguments()
    torch.set_float32_matmul_precision("high")
    vocabulary = tokenizer.load(arguments.tokenizer)
    built = model.build(model.demo_config(), arguments.device)
    if arguments.start:
        export.load(built, arguments.start)
    trainer = Trainer(built, arguments.lr)
    if (arguments.state / "state.pt").exists():
        trainer.load(arguments.state)
    packer = Packer(vocabulary, arguments.rows, arguments.length, arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with (arguments.out / "log.jsonl").open("a", encoding="utf-8") as log:
        validation = evaluate.ValidationLoss(vocabulary, arguments.device, 3, arguments.length)
        _train(trainer, packer, validation, arguments, Log(log))
    trainer.save(arguments.state)
    export.save(trainer.model, arguments.tokenizer, arguments.out / "checkpoint")
    for split in arguments.evaluate:
        started = time.monotonic()
        found = evaluate.run(trainer.model, vocabulary, split, arguments.share)
        (arguments.out / f"{split}.json").write_text(json.dumps(found, indent=1, ensure_ascii=False), encoding="utf-8")
        print(
            split,
            f"{time.monotonic() - started:.0f} s",
            {key: value for key, value in found.items() if key != "wrong"},
            flush=True,
        )


class Log:
    """JSON lines to a file and to standard output."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def write(self, **entry: Any) -> None:
        line = json.dumps(entry)
        self.file.write(line + "\n")
        self.file.flush()
        print(line, flush=True)


def _batches(packer: Packer, first: int, workers: int) -> Iterator[dict[str, torch.Tensor]]:
    """Batches in order from `first`, made ahead by worker processes."""
    return iter(
        DataLoader(
            packer,  # type: ignore[arg-type]
            batch_size=None,
            sampler=range(first, 1 << 30),
            num_workers=workers,
            prefetch_factor=8 if workers else None,
            pin_memory=torch.cuda.is_available(),
        )
    )


def _train(
    trainer: Trainer, packer: Packer, validation: evaluate.ValidationLoss, arguments: argparse.Namespace, log: Log
) -> None:
    batches = _batches(packer, trainer.steps, arguments.workers)
    tokens = packer.rows * packer.length
    earlier, started, marked, checked = trainer.spent, time.monotonic(), time.monotonic(), 0.0
    seen: list[dict[str, Any]] = []
    while (elapsed := time.monotonic() - started) < arguments.seconds and trainer.steps < arguments.steps:
        trainer.spent = earlier + elapsed
        seen.append(trainer.step(next(batches), trainer.spent / arguments.plan))
        if len(seen) == arguments.every:
            entry = _summary(seen)
            now = time.monotonic()
            entry["tokens_per_second"] = round(tokens * len(seen) / (now - marked))
            marked = now
            seen = []
            if now - checked > arguments.check:
                entry["validation"] = validation(trainer.model)
                checked = marked = time.monotonic()
            log.write(step=trainer.steps, seconds=round(trainer.spent, 1), tokens=trainer.steps * tokens, **entry)
    trainer.spent = earlier + time.monotonic() - started
    log.write(
        step=trainer.steps,
        seconds=round(trainer.spent, 1),
        tokens=trainer.steps * tokens,
        validation=validation(trainer.model),
    )


def _summary(seen: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over some steps; `least` and `most`: the loads of the least and the most used expert of any layer, 1 being
    even.
    """
    load = torch.stack([one["load"] for one in seen]).mean(0) * seen[0]["load"].shape[1]
    means = {name: torch.stack([one[name] for one in seen]).mean().item() for name in ("loss", "balance", "norm")}
    rounded = {name: round(value, 4) for name, value in means.items()}
    return {
        **rounded,
        "lr": round(seen[-1]["lr"], 6),
        "least": round(load.min().item(), 3),
        "most": round(load.max().item(), 3),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="where the log, the results and the checkpoint go")
    parser.add_argument("--state", type=Path, required=True, help="where a resumed run finds its state")
    parser.add_argument("--start", type=Path, help="a checkpoint whose weights a new run begins with")
    parser.add_argument("--tokenizer", type=Path, required=True, help="directory with tokenizer.json")
    parser.add_argument("--seconds", type=float, default=3e7, help="training time of this command")
    parser.add_argument("--plan", type=float, required=True, help="training time of all commands together")
    parser.add_argument("--steps", type=int, default=1 << 30, help="stop at this many updates")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=12)
    parser.add_argument("--every", type=int, default=20, help="updates between log lines")
    parser.add_argument("--check", type=float, default=60, help="seconds between validation losses")
    parser.add_argument("--evaluate", nargs="*", default=[], choices=["validation", "test"])
    parser.add_argument("--share", type=float, default=1.0, help="part of the evaluation cases")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


if __name__ == "__main__":
    main()
