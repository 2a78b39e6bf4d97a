"""What the system's counters say about memory, and when that is called pressure."""

from pathlib import Path

import pytest

from flashmoe.streaming import pressure
from flashmoe.streaming.cgroups import Headroom
from flashmoe.streaming.pressure import PressureWatch, Strain, machine_and_groups, strain

LINE = "some avg10=0.00 avg60=0.00 avg300=0.00 total={}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1\n"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A machine with pressure figures, and this process in a group of version 2 with a limit."""
    for name in ("proc/self", "proc/pressure", "cgroup/run"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "proc/pressure/memory").write_text(LINE.format(7_000_000))
    (tmp_path / "proc/self/cgroup").write_text("0::/run\n")
    (tmp_path / "proc/self/mountinfo").write_text(f"1 1 0:1 / {tmp_path}/cgroup rw - cgroup2 cgroup2 rw\n")
    (tmp_path / "cgroup/run/memory.max").write_text("1000000000\n")
    (tmp_path / "cgroup/run/memory.pressure").write_text(LINE.format(2_500_000))
    return tmp_path / "proc"


def test_a_group_with_a_limit_counts_its_own_waiting(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pressure, "available_memory", lambda _: 10 << 30)
    assert strain(proc).stalled == 2.5
    (proc.parent / "cgroup/run/memory.max").write_text("max\n")
    assert strain(proc).stalled == 0.0


def test_the_machine_counts_while_it_is_short_of_memory(proc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pressure, "available_memory", lambda _: 100 << 20)
    assert strain(proc).stalled == 7.0


@pytest.mark.parametrize("text", ["", "some", "full total=1", "some a b c total=x", "some avg10=0 avg60=0 avg300=0"])
def test_a_machine_that_tells_nothing_is_calm(proc: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pressure, "available_memory", lambda _: 0)
    for path in (proc / "pressure/memory", proc.parent / "cgroup/run/memory.pressure"):
        path.write_text(text)
    assert strain(proc).stalled == 0.0
    assert strain(proc / "nowhere").stalled == 0.0


def test_faults_of_this_process_only_grow() -> None:
    assert 0 <= strain().faults <= strain().faults


def test_the_watch_wants_two_strained_intervals_in_a_row() -> None:
    now, seen = 0.0, Strain(0.0, 0)
    watch = PressureWatch(lambda: seen, lambda: now)

    def after(seconds: float, stalled: float) -> bool:
        nonlocal now, seen
        now += seconds
        seen = Strain(seen.stalled + stalled, seen.faults)
        return watch.over()

    assert not after(2.0, 1.0)
    assert not after(2.0, 0.0)
    assert not after(2.0, 1.0)
    assert not after(0.5, 0.0)  # too early to tell
    assert after(2.0, 1.0)
    assert not after(2.0, 1.0)  # starts anew
    assert after(2.0, 1.0)


GiB = 1 << 30


@pytest.mark.parametrize(
    ("rooms", "shortfall"),
    [
        ([], 0),
        ([Headroom(10 * GiB, 24 * GiB)], 0),
        ([Headroom(300 << 20, 24 * GiB)], 0),
        ([Headroom(200 << 20, 24 * GiB)], 312 << 20),  # the reserve is never more than 256 MiB
        ([Headroom(90 << 20, 6 * GiB)], (192 - 90) << 20),
        ([Headroom(20 << 20, GiB)], (64 - 20) << 20),  # nor less than 32
        ([Headroom(0, 100 << 20), Headroom(10 * GiB, 24 * GiB)], 64 << 20),
    ],
)
def test_what_lacks_is_twice_the_reserve_where_less_than_it_is_left(rooms: list[Headroom], shortfall: int) -> None:
    now = 0.0
    watch = PressureWatch(lambda: Strain(0.0, 0), lambda: now, lambda: rooms)
    assert watch.shortfall() == 0  # too early to look
    now += PressureWatch.LOOK
    assert watch.shortfall() == shortfall
    assert watch.shortfall() == 0


def test_the_machine_and_the_groups_with_a_limit_have_room(proc: Path) -> None:
    (proc.parent / "cgroup/run/memory.current").write_text("300000000\n")
    (proc.parent / "cgroup/run/memory.stat").write_text("inactive_file 50000000\n")
    machine, group = machine_and_groups(proc)
    assert 0 < machine.left <= machine.limit
    assert group == Headroom(750_000_000, 1_000_000_000)
