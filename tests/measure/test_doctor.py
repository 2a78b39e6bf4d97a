"""`flashmoe doctor`: figures of this machine, words that follow from figures, and nothing left behind."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest

from flashmoe.cli.main import run
from flashmoe.errors import CapacityError, FlashMoeError
from flashmoe.measure import doctor, processor
from flashmoe.measure import limits as limits_module
from flashmoe.measure.disk import DiskProbe, Rate, plain_file, probe_disk
from flashmoe.measure.doctor import Machine, verdict
from flashmoe.measure.limits import Limits, read_limits
from flashmoe.measure.processor import ThreadRate, probe_first_use, probe_memory, probe_products, thread_counts
from flashmoe.streaming.reader import ExpertFile

GIB = 2**30
LIMITS = Limits(("avx512", "portable"), 8, 4, None, 64 * GIB, 48 * GIB, None, None, "madvise")
DISK = DiskProbe(7_000_000, (Rate(1, 2e9), Rate(8, 7e9)), (Rate(1, 1e9), Rate(8, 5e9)), True)
MACHINE = Machine("d", "its experts", DISK, (ThreadRate(1, 2e10), ThreadRate(4, 7e10)), 1e12, LIMITS)


@pytest.fixture
def small_probes(monkeypatch):
    """Probes of a few milliseconds."""
    monkeypatch.setattr(doctor, "_MEMORY_BYTES", 1 << 20)
    monkeypatch.setattr(doctor, "plain_file", lambda directory: plain_file(directory, 1 << 20, 65536))
    monkeypatch.setattr(doctor, "probe_disk", lambda files: probe_disk(files, (1, 2), 0.01))
    monkeypatch.setattr(doctor, "probe_memory", lambda threads, nbytes: probe_memory(threads, nbytes, 0.001))
    monkeypatch.setattr(doctor, "probe_products", lambda threads: probe_products(threads, 0.001))


def test_a_plain_file_has_no_name_and_all_its_records(tmp_path):
    with plain_file(tmp_path, 1 << 20, 65536) as file:
        assert list(tmp_path.iterdir()) == []
        assert file.path.stat().st_size == 1 << 20 == file.experts * file.record_bytes
    assert not file.path.exists()


def test_no_file_is_left_where_the_probe_fails_halfway(tmp_path):
    with pytest.raises(KeyboardInterrupt), plain_file(tmp_path, 1 << 20, 65536):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_reads_are_bounded_by_the_records_there_are(tmp_path):
    with plain_file(tmp_path, 1 << 20, 65536) as file:
        probe = probe_disk([file], (1, 4), seconds=1e9)
    assert [rate.depth for rate in probe.buffered] == [1, 4]
    assert all(rate.bytes_per_second > 0 for rate in (*probe.direct, *probe.buffered))
    assert probe.record_bytes == 65536


def test_layers_with_records_of_different_sizes_are_read(tmp_path):
    files = []
    for size in (4096, 12288):
        path = tmp_path / str(size)
        path.write_bytes(bytes(5 * size))
        files.append(ExpertFile(path, 0, 5, size))
    assert probe_disk(files, (1, 3), 0.01).record_bytes == 12288


def test_a_truncated_file_is_a_sentence(tmp_path):
    path = tmp_path / "short"
    path.write_bytes(bytes(4096))
    with pytest.raises(FlashMoeError, match="cut short"):
        probe_disk([ExpertFile(path, 0, 2, 4096)], (1,), 0.01)


def test_a_full_disk_is_a_sentence_with_figures(tmp_path):
    with pytest.raises(CapacityError, match="free; the probe writes"), plain_file(tmp_path, 1 << 60):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_directory_that_cannot_be_written_is_a_sentence(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(FlashMoeError, match="cannot be written to"), plain_file(tmp_path, 4096, 4096):
        pass


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no memory file system here")
def test_what_lies_in_memory_is_not_called_cold():
    with plain_file(Path("/dev/shm"), 1 << 20, 65536) as file:
        probe = probe_disk([file], (1,), 0.01)
    assert not probe.cold


def test_what_came_from_the_page_cache_is_not_the_disks_best():
    warm = dataclasses.replace(DISK, buffered=(Rate(1, 9e10),), cold=False)
    assert warm.best == Rate(8, 7e9)
    assert dataclasses.replace(DISK, buffered=(Rate(1, 9e9),)).best == Rate(1, 9e9)


def test_threads_double_up_to_the_cores():
    assert [thread_counts(n) for n in (1, 2, 6, 16)] == [[1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8, 16]]


def test_the_memory_probe_reads_all_it_is_given(monkeypatch):
    seen = []

    class Counting:
        def __init__(self, threads: int) -> None:
            self.threads = threads

        def read_all(self, memory: np.ndarray) -> None:
            seen.append((self.threads, int(memory.sum())))

    monkeypatch.setattr(processor, "Cpu", Counting)
    assert [rate.threads for rate in probe_memory([1, 2], 1 << 20, 0.0)] == [1, 2]
    assert set(seen) == {(1, 1 << 20), (2, 1 << 20)}


def test_limits_are_those_of_the_process(tmp_path):
    limits = read_limits()
    assert 1 <= limits.cores <= limits.processors
    assert 0 < limits.available <= limits.memory
    assert limits.instruction_sets[-1] == "portable"
    pages = tmp_path / "kernel/mm/transparent_hugepage"
    pages.mkdir(parents=True)
    (pages / "enabled").write_text("always madvise [never]\n")
    assert read_limits(sys=tmp_path).huge_pages == "never"


@pytest.mark.parametrize(("seconds", "slow"), [(4.0, True), (0.5, False)])
def test_first_use_counts_when_what_was_freed_a_moment_ago_is_used_up(monkeypatch, seconds, slow):
    """Pieces of 0.1 s, then of 1 s."""
    ticks = [0.0]
    for piece in [0.1] * 6 + [1.0] * 6:
        ticks += [ticks[-1], ticks[-1] + piece]
    monkeypatch.setattr(processor, "perf_counter", iter(ticks).__next__)
    monkeypatch.setattr(processor, "_PIECE", 4096)
    assert probe_first_use(12 * 4096, seconds) == pytest.approx(4096 / (1.0 if slow else 0.1))


@pytest.mark.parametrize(
    ("status", "may"),
    [
        ("CapInh:\t0\nCapEff:\t0000000000004000\n", True),
        ("CapInh:\t0000000000004000\nCapEff:\t00000000a80425fb\n", False),
        ("Name:\tpython\n", False),
    ],
)
def test_only_who_may_lock_any_memory_is_above_the_limit(tmp_path, monkeypatch, status, may):
    (tmp_path / "self").mkdir()
    (tmp_path / "self/status").write_text(status)
    monkeypatch.setattr(limits_module.resource, "getrlimit", lambda _: (8_000_000, 8_000_000))
    assert read_limits(proc=tmp_path).locked == (None if may else 8_000_000)


def words(**changes) -> str:
    return " ".join(verdict(dataclasses.replace(MACHINE, **changes)))


def limited(**changes) -> str:
    return words(limits=dataclasses.replace(LIMITS, **changes))


def test_a_good_machine_has_a_verdict_on_speed_alone():
    first, second = verdict(MACHINE)
    assert first.startswith("An expert from disk takes 1.00 ms at best (7.00 GB/s with 8 in flight), 10 times as long")
    assert second == "Direct reads are 40% faster than reads through a cold page cache."


def test_the_verdict_names_what_is_in_the_way():
    assert "no direct reads here" in words(disk=dataclasses.replace(DISK, direct=()))
    assert "is not known to have let go" in words(disk=dataclasses.replace(DISK, cold=False))
    assert "instruction sets" in limited(instruction_sets=("portable",))
    assert "no huge pages" in limited(huge_pages="never")
    assert "At most 8.00 MB can be locked" in limited(locked=8_000_000)
    assert "control group, not the machine" in limited(cgroup_memory=8 * GIB, available=8 * GIB)
    assert "limits the processors to 1.5" in limited(cgroup_processors=1.5)


@pytest.mark.usefixtures("small_probes")
def test_doctor_speaks_to_people_and_to_programs(tmp_path, capsys):
    assert run(["doctor", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "verdict" in said.out
    assert "writing a file" in said.err
    assert run(["doctor", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["disk"]["buffered"][0]["bytes_per_second"] > 0
    assert found["verdict"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("small_probes")
def test_doctor_reads_a_models_own_experts(tiny_packed, capsys):
    assert run(["doctor", str(tiny_packed("qwen3_moe"))]) == 0
    said = capsys.readouterr()
    assert "from its experts" in said.out
    assert "writing" not in said.err


def test_doctor_of_no_directory_is_a_sentence(capsys):
    assert run(["doctor", "nowhere"]) == 1
    assert "nowhere is not a directory" in capsys.readouterr().err
