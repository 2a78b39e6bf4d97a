"""A pack that is killed goes on where it stopped, and ends as if nothing had happened."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import flashmoe
from checkpoints import CONFIGS, one_tensor_an_expert, random_weights, sized, write_hf
from flashmoe.errors import FlashMoeError
from flashmoe.pack.packer import pack
from flashmoe.pack.recipe import Recipe

pytestmark = pytest.mark.slow

CONFIG = sized("qwen3_next", num_hidden_layers=3)
COMMAND = [sys.executable, str(Path(__file__).with_name("kill_pack.py"))]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(flashmoe.__file__).parents[1])}


def run(source, out, moment, *options):
    return subprocess.run(
        [*COMMAND, source, out, str(moment), *options], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )


def contents(directory):
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The source, what an uninterrupted pack makes of it, and the number of its moments."""
    base = tmp_path_factory.mktemp("reference")
    source = write_hf(base / "hf", CONFIG, one_tensor_an_expert(random_weights(CONFIG)), shards=4)
    done = run(source, base / "out", 0)
    assert done.returncode == 0, done.stderr
    return source, contents(base / "out"), int(done.stdout)


def whole_or_absent(out, expected):
    """No final name holds anything but the final bytes."""
    found = {n: data for n, data in contents(out).items() if ".packing/" not in n and not n.endswith(".partial")}
    assert all(expected[name] == data for name, data in found.items())


@pytest.mark.parametrize("options", [(), ("--delete-source",)])
@pytest.mark.parametrize("seed", [1, 2])
def test_sigkill_at_any_moment_then_resume_is_byte_identical(tmp_path, reference, seed, options):
    original, expected, moments = reference
    source = tmp_path / "hf"
    shutil.copytree(original, source)
    draw = random.Random(seed)
    for _ in range(4):
        killed = run(source, tmp_path / "out", draw.randint(1, moments), *options)
        if killed.returncode == 0:
            break
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        if (tmp_path / "out").exists():
            whole_or_absent(tmp_path / "out", expected)
    if not (tmp_path / "out" / "flashmoe.json").exists() or (tmp_path / "out" / ".packing").exists():
        done = run(source, tmp_path / "out", 0, *options)
        # A kill may come after the last thing a pack does, the removal of its own state.
        assert done.returncode == 0 or "already holds a packed model" in done.stderr
    assert contents(tmp_path / "out") == expected
    assert bool(list(source.glob("*.safetensors"))) == (not options)


def test_sigkill_from_outside_then_resume_is_byte_identical(tmp_path, reference):
    source, expected, _ = reference
    draw = random.Random(3)
    for _ in range(3):
        process = subprocess.Popen(
            [*COMMAND, source, tmp_path / "out", "0"], env=ENVIRONMENT, stdout=subprocess.DEVNULL
        )
        while process.poll() is None and not (tmp_path / "out").exists():
            time.sleep(0.001)
        time.sleep(draw.uniform(0, 0.2))
        process.kill()
        process.wait()
        whole_or_absent(tmp_path / "out", expected)
    if not (tmp_path / "out" / "flashmoe.json").exists() or (tmp_path / "out" / ".packing").exists():
        assert run(source, tmp_path / "out", 0).returncode == 0
    assert contents(tmp_path / "out") == expected


def test_every_moment_of_the_end_can_be_the_last(tmp_path, reference):
    """The last moments are the delicate ones: manifest, removal of the state."""
    source, expected, moments = reference
    for moment in range(moments - 8, moments + 1, 2):
        out = tmp_path / str(moment)
        assert run(source, out, moment).returncode == -signal.SIGKILL
        again = run(source, out, 0)
        assert again.returncode == 0 or "already holds a packed model" in again.stderr
        assert contents(out) == expected


@pytest.fixture
def unfinished(tmp_path, reference):
    """A pack stopped after its trunk, with a source of its own."""
    original, _, moments = reference
    shutil.copytree(original, tmp_path / "hf")
    assert run(tmp_path / "hf", tmp_path / "out", moments * 3 // 4).returncode == -signal.SIGKILL
    return tmp_path / "hf", tmp_path / "out"


def test_other_options_are_refused(unfinished):
    source, out = unfinished
    with pytest.raises(FlashMoeError, match="begun with other options"):
        pack(source, out, Recipe(expert_bits=2))


def test_what_another_version_began_is_left_to_it(unfinished):
    source, out = unfinished
    plan = out / ".packing" / "plan.json"
    begun = json.loads(plan.read_text())
    del begun["version"]
    plan.write_text(json.dumps(begun))
    with pytest.raises(FlashMoeError, match="begun by another version"):
        pack(source, out, Recipe())


def test_another_source_is_refused(unfinished, tmp_path):
    _, out = unfinished
    other = write_hf(tmp_path / "other", CONFIGS["qwen3_moe"], random_weights(CONFIGS["qwen3_moe"]))
    with pytest.raises(FlashMoeError, match="begun from another source"):
        pack(other, out, Recipe())


def test_a_shard_that_changed_is_refused(unfinished):
    source, out = unfinished
    shard = sorted(source.glob("*.safetensors"))[-1]
    data = shard.read_bytes()
    shard.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(FlashMoeError, match="has changed since the pack began"):
        pack(source, out, Recipe())


def test_a_damaged_state_is_a_sentence(unfinished):
    source, out = unfinished
    plan = out / ".packing" / "plan.json"
    for damage in ("", "[]", "{}", json.dumps({**json.loads(plan.read_text()), "shards": {"sizes": 3}})):
        plan.write_text(damage)
        with pytest.raises(FlashMoeError):
            pack(source, out, Recipe())


def test_a_missing_shard_that_is_still_needed_is_named(unfinished):
    source, out = unfinished
    last = sorted(source.glob("*.safetensors"))[-1]
    last.unlink()
    with pytest.raises(FlashMoeError, match=f"{last.name} is missing and still needed"):
        pack(source, out, Recipe())


def test_a_finished_file_that_lost_bytes_is_written_again(unfinished, reference):
    source, out = unfinished
    file = out / "trunk.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    pack(source, out, Recipe())
    assert contents(out) == reference[1]
