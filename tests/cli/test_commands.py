"""The commands as a user meets them: sentences, exit codes, and output that others can read."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from checkpoints import CONFIGS, WRAPPED, random_weights, wrapped, write_hf
from flashmoe.cli.main import COMMANDS, run
from flashmoe.pack.manifest import Manifest
from packs import without_identity
from processes import ENVIRONMENT, HANG, start

CONFIG = CONFIGS["qwen3_5_moe_text"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    source = write_hf(tmp_path_factory.mktemp("cli") / "hf", WRAPPED, wrapped(random_weights(CONFIG)), shards=2)
    (source / "tokenizer.json").unlink()  # it stands for one, and is none
    return source


@pytest.fixture(scope="module")
def packed(source):
    out = source.parent / "packed"
    assert run(["pack", str(source), str(out)]) == 0
    return out


def damage(packed, target):
    """A copy with one bit of layer 1, expert 3 flipped."""
    shutil.copytree(packed, target)
    manifest = Manifest.read(target)
    path = manifest.layers[1].path
    data = bytearray(path.read_bytes())
    data[manifest.layers[1].data_offset + 3 * manifest.layout(1).record_bytes + 77] ^= 1
    path.write_bytes(data)
    return target


def test_pack_says_what_it_skips_and_what_it_made(source, tmp_path, capfd):
    assert run(["pack", str(source), str(tmp_path / "out"), "--bits", "2", "--trunk-bits", "8"]) == 0
    said = capfd.readouterr()
    assert said.out == ""
    assert "Skipping 1 tensors of vision" in said.err
    assert "of which experts" in said.err
    assert Manifest.read(tmp_path / "out").quantisation["experts"] == [2]
    assert Manifest.read(tmp_path / "out").quantisation["matrix"] == [8]


def test_verify_of_a_whole_model_succeeds(packed, capsys):
    assert run(["verify", str(packed)]) == 0
    assert "is whole" in capsys.readouterr().out


def test_verify_says_what_an_early_pack_does_not_show(packed, tmp_path, capsys):
    shutil.copytree(packed, tmp_path / "early")
    without_identity(tmp_path / "early")
    assert run(["verify", str(tmp_path / "early")]) == 0
    assert "reordered together with their checksums would not be seen" in capsys.readouterr().out


def test_values_that_nothing_can_be_sampled_with_are_known_before_the_first_byte(source, tmp_path, capsys):
    checkpoint = Path(shutil.copytree(source, tmp_path / "hf"))
    (checkpoint / "generation_config.json").write_text('{"do_sample": true, "temperature": "hot"}')
    assert run(["pack", str(checkpoint), str(tmp_path / "out"), "--delete-source"]) == 1
    assert "generation_config.json: temperature must be a number" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert len(list(checkpoint.glob("*.safetensors"))) == 2


def test_verify_names_layer_and_expert_and_fails(packed, tmp_path, capsys):
    assert run(["verify", str(damage(packed, tmp_path / "bad"))]) == 1
    said = capsys.readouterr()
    assert "layer 1, expert 3 is damaged" in said.out
    assert "has 1 problem." in said.err


def test_info_is_for_people_and_for_programs(packed, capsys):
    assert run(["info", str(packed), "--memory", "1GB"]) == 0
    assert "4 layers of 6, 2 a token" in capsys.readouterr().out
    assert run(["info", str(packed), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["expert_bytes"] == Manifest.read(packed).expert_bytes
    assert found["memory"] > 0


def test_export_writes_a_checkpoint(packed, tmp_path):
    assert run(["export", str(packed), str(tmp_path / "out"), "--dtype", "bfloat16"]) == 0
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["pack", "nowhere", "out"], "nowhere is not a directory with a checkpoint"),
        (["verify", "nowhere"], "nowhere is not a packed model"),
        (["info", "nowhere"], "nowhere is not a packed model"),
        (["export", "nowhere", "out"], "nowhere is not a packed model"),
        (["info", "nowhere", "--memory", "much"], "'much' is not a size"),
        (["synth", "out", "--like", "qwen3.5-35b-a3b", "--layers", "41"], "has 1 to 40 layers, not 41"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_one(arguments, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 1
    said = capsys.readouterr().err
    (line,) = [line for line in said.splitlines() if line.startswith("flashmoe: ")]
    assert sentence in line
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_wrong_usage_is_exit_code_two(capsys):
    assert run(["pack"]) == 2
    assert run(["fly"]) == 2
    assert run(["pack", "a", "b", "--bits", "3"]) == 2
    assert "Usage" in capsys.readouterr().err


def test_help_lists_every_command_and_each_explains_itself(capsys):
    assert run(["--help"]) == 0
    listing = capsys.readouterr().out
    for name in COMMANDS:
        assert name in listing
        assert run([name, "--help"]) == 0
        assert "Usage" in capsys.readouterr().out


def test_help_imports_no_command():
    code = "import sys; from flashmoe.cli.main import run; run(['--help']); print('flashmoe.cli.pack' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_interrupt_ends_with_130_and_no_traceback():
    """Ctrl-C in the middle of anything."""
    code = (
        "import os, signal, sys, flashmoe.cli.main as m\n"
        "m.group.invoke = lambda _: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.exit(m.run(['doctor']))"
    )
    process = start([sys.executable, "-c", code], env=ENVIRONMENT)
    _, err = process.communicate(timeout=HANG)
    assert process.returncode == 128 + signal.SIGINT
    assert b"Traceback" not in err
