"""The model card says what the files say."""

import json
from pathlib import Path

from training import card


def test_the_card_is_filled_in_from_the_runs_own_files(tmp_path: Path, monkeypatch):
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    sizes = {"num_hidden_layers": 8, "hidden_size": 256, "vocab_size": 3840, "num_experts": 64}
    config = {**sizes, "dtype": "bfloat16", "moe_intermediate_size": 64, "num_experts_per_tok": 4}
    (checkpoint / "config.json").write_text(json.dumps(config))
    (checkpoint / "model.safetensors.index.json").write_text('{"metadata": {"total_size": 63600000}}')
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"tokens": 299000000, "seconds": 1085.2}\n')
    families = {
        "tool_single": {"cases": 100, "valid": 99, "right": 97},
        "talk": {"cases": 20, "valid": 20, "right": 19},
    }
    found = {"tool_calls_right": 0.965, "json_valid": 0.99, "json_right": 0.9, "families": families}
    (tmp_path / "test.json").write_text(json.dumps(found))
    monkeypatch.setattr("sys.argv", ["card", str(tmp_path)])
    card.main()
    text = (checkpoint / "README.md").read_text()
    for said in (
        "31.8 M",
        "63.6 MB",
        "96.5%",
        "99.0%",
        "120 held-out cases",
        "299 M tokens",
        "| talk | 20 | 20 | 19 |",
    ):
        assert said in text
