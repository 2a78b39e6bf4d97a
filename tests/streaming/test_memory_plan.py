"""What the machine and its control groups leave, from trees of files like the kernel's, and the plan made of it."""

from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashmoe.errors import CapacityError
from flashmoe.streaming import cgroups
from flashmoe.streaming.memory import available_memory, compute_threads, physical_cores, plan

MiB = 2**20


class Machine:
    """A fake /proc and /sys."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.proc = root / "proc"
        self.cpus = root / "cpus"
        (self.proc / "self").mkdir(parents=True)
        self.groups: list[str] = []
        self.mounts = [f"20 1 0:5 / {root}/proc rw - proc proc rw"]

    def mount(self, version: int, controllers: str = "", seen: str = "/") -> Path:
        point = self.root / (controllers or "unified")
        point.mkdir()
        kind = "cgroup2 cgroup2 rw" if version == 2 else f"cgroup cgroup rw,{controllers}"
        self.mounts.append(f"31 20 0:28 {seen} {point} rw,relatime shared:4 - {kind}")
        return point

    def join(self, line: str) -> None:
        self.groups.append(line)

    def boot(self) -> Path:
        (self.proc / "self/cgroup").write_text("\n".join(self.groups) + "\n")
        (self.proc / "self/mountinfo").write_text("\n".join(self.mounts) + "\n")
        return self.proc


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def put(directory: Path, **files: object) -> None:
    """Files of a group; `_max` stands for `.max`."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        controller, _, rest = name.partition("_")
        (directory / f"{controller}.{rest}").write_text(f"{content}\n")


def test_without_control_groups_nothing_is_limited(tmp_path: Path) -> None:
    assert cgroups.memory_left(tmp_path) is None
    assert cgroups.cpus(tmp_path) is None
    assert available_memory(tmp_path) <= psutil.virtual_memory().total


def test_version_2_leaves_its_limit_less_what_is_used_and_not_page_cache(machine: Machine) -> None:
    group = machine.mount(2) / "user/app"
    stat = f"anon 1\ninactive_file {100 * MiB}\nactive_file {20 * MiB}\nshmem 5"
    put(group, memory_max=1000 * MiB, memory_current=300 * MiB, memory_stat=stat)
    machine.join("0::/user/app")
    assert cgroups.memory_left(machine.boot()) == 820 * MiB


def test_the_tightest_of_nested_groups_decides(machine: Machine) -> None:
    root = machine.mount(2)
    put(root / "a/b/c", memory_max="max", memory_current=0)
    put(root / "a/b", memory_max=700 * MiB, memory_current=100 * MiB)
    put(root / "a", memory_max=900 * MiB, memory_current=500 * MiB)
    machine.join("0::/a/b/c")
    assert cgroups.memory_left(machine.boot()) == 400 * MiB


def test_the_soft_limit_of_version_2_counts(machine: Machine) -> None:
    put(machine.mount(2) / "a", memory_max=900 * MiB, memory_high=500 * MiB, memory_current=100 * MiB)
    machine.join("0::/a")
    assert cgroups.memory_left(machine.boot()) == 400 * MiB


def test_max_is_no_limit(machine: Machine) -> None:
    put(machine.mount(2) / "a", memory_max="max", memory_high="max", memory_current=5, cpu_max="max 100000")
    machine.join("0::/a")
    assert cgroups.memory_left(machine.boot()) is None
    assert cgroups.cpus(machine.proc) is None


def test_version_1_counts_the_same_way_under_other_names(machine: Machine) -> None:
    group = machine.mount(1, "memory") / "job"
    put(
        group,
        memory_limit_in_bytes=1000 * MiB,
        memory_usage_in_bytes=300 * MiB,
        memory_stat=f"total_inactive_file {50 * MiB}\ntotal_active_file {50 * MiB}",
    )
    put(group.parent, memory_limit_in_bytes=9223372036854771712, memory_usage_in_bytes=1)
    machine.join("4:memory:/job")
    machine.join("0::/")
    assert cgroups.memory_left(machine.boot()) == 800 * MiB


def test_in_a_container_the_root_of_the_mount_is_the_group(machine: Machine) -> None:
    point = machine.mount(2, seen="/docker/1f2e")
    put(point, memory_max=600 * MiB, memory_current=200 * MiB)
    machine.join("0::/docker/1f2e")
    assert cgroups.memory_left(machine.boot()) == 400 * MiB


def test_a_path_of_the_host_that_cannot_be_seen_is_no_obstacle(machine: Machine) -> None:
    point = machine.mount(1, "memory")
    put(point, memory_limit_in_bytes=600 * MiB, memory_usage_in_bytes=200 * MiB)
    machine.join("7:memory:/kubepods/pod1/abc")
    assert cgroups.memory_left(machine.boot()) == 400 * MiB


def test_a_group_above_its_limit_leaves_nothing(machine: Machine) -> None:
    put(machine.mount(2) / "a", memory_max=100 * MiB, memory_current=150 * MiB)
    machine.join("0::/a")
    assert cgroups.memory_left(machine.boot()) == 0
    assert available_memory(machine.proc) == 0


def test_cpu_quotas_of_both_versions(machine: Machine, tmp_path: Path) -> None:
    put(machine.mount(2) / "a", cpu_max="250000 100000")
    machine.join("0::/a")
    assert cgroups.cpus(machine.boot()) == 2.5
    other = Machine(tmp_path / "other")
    put(other.mount(1, "cpu,cpuacct") / "a", cpu_cfs_quota_us=150000, cpu_cfs_period_us=100000)
    put(other.root / "cpu,cpuacct", cpu_cfs_quota_us=-1, cpu_cfs_period_us=100000)
    other.join("3:cpu,cpuacct:/a")
    assert cgroups.cpus(other.boot()) == 1.5


def describe_cpus(machine: Machine, cores: dict[int, int]) -> None:
    for cpu, core in cores.items():
        topology = machine.cpus / f"cpu{cpu}/topology"
        topology.mkdir(parents=True)
        (topology / "core_id").write_text(f"{core}\n")
        (topology / "physical_package_id").write_text("0\n")


def affinity(monkeypatch: pytest.MonkeyPatch, cpus: set[int]) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: cpus, raising=False)


def test_hyperthreads_of_one_core_count_once(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    describe_cpus(machine, {0: 0, 1: 1, 2: 0, 3: 1})
    affinity(monkeypatch, {0, 1, 2, 3})
    assert physical_cores(machine.boot(), machine.cpus) == 2
    affinity(monkeypatch, {0, 2})
    assert physical_cores(machine.proc, machine.cpus) == 1


def test_without_topology_each_processor_is_a_core(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    affinity(monkeypatch, {0, 1, 5})
    assert physical_cores(machine.boot(), machine.cpus) == 3


@pytest.mark.parametrize(
    ("processors", "cores", "threads"), [(2, 2, 2), (7, 7, 7), (8, 8, 7), (16, 16, 15), (16, 8, 8), (8, 4, 4)]
)
def test_many_cores_leave_a_processor_to_others_unless_there_is_one_besides(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, processors: int, cores: int, threads: int
) -> None:
    describe_cpus(machine, {cpu: cpu % cores for cpu in range(processors)})
    affinity(monkeypatch, set(range(processors)))
    assert compute_threads(machine.boot(), machine.cpus) == threads


@pytest.mark.parametrize(("quota", "cores"), [("200000 100000", 2), ("250000 100000", 2), ("50000 100000", 1)])
def test_a_quota_limits_the_cores(machine: Machine, monkeypatch: pytest.MonkeyPatch, quota: str, cores: int) -> None:
    affinity(monkeypatch, set(range(8)))
    put(machine.mount(2) / "a", cpu_max=quota)
    machine.join("0::/a")
    assert physical_cores(machine.boot(), machine.cpus) == cores


sizes = st.integers(0, 10**10)


@given(
    budget=sizes,
    trunk=sizes,
    state=sizes,
    scratch=sizes,
    slot_bytes=st.integers(4096, 10**8),
    top_k=st.integers(1, 16),
    experts=st.integers(1, 30000),
)
def test_a_plan_stays_in_its_budget_or_is_refused(
    budget: int, trunk: int, state: int, scratch: int, slot_bytes: int, top_k: int, experts: int
) -> None:
    fewest = min(2 * top_k, experts)
    needed = trunk + state + scratch + fewest * slot_bytes
    try:
        made = plan(
            budget=budget,
            trunk=trunk,
            state=state,
            scratch=scratch,
            slot_bytes=slot_bytes,
            top_k=top_k,
            experts=experts,
        )
    except CapacityError:
        assert needed > budget
        return
    assert needed <= made.total <= budget
    assert fewest <= made.slots <= experts
    assert made.slots == experts or made.total + slot_bytes > budget


def test_a_refusal_holds_both_figures() -> None:
    with pytest.raises(CapacityError, match=r"needs 5\.60 GB of memory and may use 3\.00 GB: trunk 5\.50 GB"):
        plan(budget=3 * 10**9, trunk=55 * 10**8, state=0, scratch=0, slot_bytes=5 * 10**6, top_k=10, experts=30720)


def test_a_plan_is_one_line() -> None:
    made = plan(budget=10**10, trunk=10**9, state=10**8, scratch=10**7, slot_bytes=1769472, top_k=8, experts=10240)
    assert str(made) == (
        "memory 10.00 GB of 10.00 GB: trunk 1.00 GB, state 100.00 MB, scratch 10.00 MB, "
        "experts 8.89 GB (5024 of 10240, 49%)"
    )


def test_without_a_budget_a_tenth_of_what_is_free_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flashmoe.streaming.memory.available_memory", lambda: 10**9)
    made = plan(budget=None, trunk=0, state=0, scratch=0, slot_bytes=10**6, top_k=8, experts=10**6)
    assert made.budget == 9 * 10**8
