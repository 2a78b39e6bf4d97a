"""The arena says how the system holds its memory."""

from pathlib import Path

import pytest

from flashmoe.streaming.arena import Arena, _huge_bytes

SMAPS = """\
7f0000000000-7f0000400000 rw-p 00000000 00:00 0
Size:               4096 kB
AnonHugePages:      2048 kB
VmFlags: rd wr mr mw me ac sd hg
7f0000400000-7f0000600000 rw-p 00000000 00:00 0                          [anon]
Size:               2048 kB
AnonHugePages:         0 kB
"""


@pytest.mark.parametrize(
    ("address", "huge"), [(0x7F0000000000, 2048), (0x7F00003FFFFF, 2048), (0x7F0000400000, 0), (0x10, 0)]
)
def test_huge_pages_are_those_of_the_mapping_of_the_address(address: int, huge: int, tmp_path: Path) -> None:
    smaps = tmp_path / "smaps"
    smaps.write_text(SMAPS)
    assert _huge_bytes(address, smaps) == huge * 1024
    assert _huge_bytes(address, tmp_path / "none") == 0


def test_an_arena_says_what_it_was_given() -> None:
    arena = Arena(3000, 4096)
    assert str(arena) == f"{'huge' if arena.huge else 'small'} pages, {'locked' if arena.locked else 'not locked'}"
    assert not arena.array.any()


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not tell what memory is in use")
def test_slots_take_no_memory_before_they_are_used() -> None:
    before = resident_bytes()
    arena = Arena(1 << 10, 1 << 20)
    assert resident_bytes() - before < arena.array.nbytes // 10
