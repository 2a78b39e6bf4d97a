"""The model card, README.md of a checkpoint: model_card.md filled in with what a run measured.

python -m training.card OUT     # after `training.train --out OUT --evaluate test`; writes OUT/checkpoint/README.md
"""

import json
import sys
from pathlib import Path
from typing import Any

TEMPLATE = Path(__file__).with_name("model_card.md")


def card(config: dict[str, Any], weight_bytes: int, last: dict[str, Any], found: dict[str, Any]) -> str:
    """config: config.json. last: the last line of the log. found: what evaluate.run gave for the test set."""
    rows = [f"| {name} | {c['cases']} | {c['valid']} | {c['right']} |" for name, c in found["families"].items()]
    return TEMPLATE.read_text(encoding="utf-8").format(
        parameters=weight_bytes / 2e6,
        megabytes=weight_bytes / 1e6,
        dtype=config["dtype"],
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        vocabulary=config["vocab_size"],
        experts=config["num_experts"],
        inner=config["moe_intermediate_size"],
        top_k=config["num_experts_per_tok"],
        tokens=last["tokens"] / 1e6,
        seconds=last["seconds"],
        cases=sum(c["cases"] for c in found["families"].values()),
        calls=found["tool_calls_right"],
        json_valid=found["json_valid"],
        json_right=found["json_right"],
        families="\n".join(rows),
    )


def main() -> None:
    out = Path(sys.argv[1])
    checkpoint = out / "checkpoint"
    index = json.loads((checkpoint / "model.safetensors.index.json").read_text())
    text = card(
        json.loads((checkpoint / "config.json").read_text()),
        index["metadata"]["total_size"],
        json.loads((out / "log.jsonl").read_text().splitlines()[-1]),
        json.loads((out / "test.json").read_text()),
    )
    (checkpoint / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
