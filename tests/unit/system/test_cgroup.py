import pytest

from jitterprof.system.cgroup import Hierarchy, ancestors, cgroup_limits, directory

V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


def test_recorded_guest_is_v1_without_limits(guest):
    limits = cgroup_limits(guest)
    assert (limits.version, limits.weight, limits.weight_file) == (1, 1024, "cpu.shares")
    assert limits.quota_cpus is None
    assert limits.cpuset == "0-1"
    assert limits.cpu_path == "/sys/fs/cgroup/cpu"


def test_v2_takes_the_tightest_ancestor(make_host):
    base = "/sys/fs/cgroup"
    host = make_host(
        {
            "/proc/self/mountinfo": V2_MOUNT,
            "/proc/self/cgroup": "0::/a/b\n",
            f"{base}/cgroup.controllers": "cpuset cpu memory\n",
            f"{base}/a/cpu.max": "150000 100000\n",
            f"{base}/a/memory.max": "1073741824\n",
            f"{base}/a/b/cpu.max": "max 100000\n",
            f"{base}/a/b/cpu.weight": "79\n",
            f"{base}/a/b/cpu.idle": "1\n",
            f"{base}/a/b/memory.max": "max\n",
            f"{base}/a/b/cpuset.cpus.effective": "2-3\n",
            f"{base}/a/cpu.max.burst": "5000\n",
        }
    )
    limits = cgroup_limits(host)
    assert limits.version == 2
    assert (limits.quota_cpus, limits.quota_us, limits.period_us) == (1.5, 150_000, 100_000)
    assert limits.quota_path == f"{base}/a"
    assert limits.burst_us == 5000
    assert (limits.weight, limits.idle) == (79, True)
    assert limits.memory_limit_bytes == 1 << 30
    assert limits.cpuset == "2-3"
    assert ancestors(host, "self", "cpu") == (f"{base}/a/b", f"{base}/a", base)


def test_v1_quota_and_unlimited_memory(make_host):
    mounts = "".join(
        f"3{n} 23 0:3{n} / /sys/fs/cgroup/{name} rw - cgroup cgroup rw,{name}\n"
        for n, name in enumerate(("cpu,cpuacct", "memory", "cpuset"))
    )
    base = "/sys/fs/cgroup/cpu,cpuacct/docker/x"
    host = make_host(
        {
            "/proc/7/cgroup": "5:memory:/docker/x\n4:cpuset:/\n3:cpu,cpuacct:/docker/x\n1:name=systemd:/\n",
            "/proc/self/mountinfo": mounts,
            f"{base}/cpu.cfs_quota_us": "50000\n",
            f"{base}/cpu.cfs_period_us": "100000\n",
            f"{base}/cpu.shares": "512\n",
            "/sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes": "9223372036854771712\n",
        }
    )
    limits = cgroup_limits(host, 7)
    assert (limits.version, limits.quota_cpus, limits.weight) == (1, 0.5, 512)
    assert limits.memory_limit_bytes is None


def test_container_that_sees_only_its_own_group(make_host):
    """Without a cgroup namespace /proc shows the host's path, while the mount shows our group at its top."""
    host = make_host(
        {
            "/proc/self/mountinfo": V2_MOUNT.replace(" / /sys", " /docker/abc /sys"),
            "/proc/self/cgroup": "0::/docker/abc\n",
            "/sys/fs/cgroup/cgroup.controllers": "cpu\n",
            "/sys/fs/cgroup/cpu.max": "20000 100000\n",
        }
    )
    assert cgroup_limits(host).quota_cpus == pytest.approx(0.2)


def test_no_cgroup_at_all(make_host):
    limits = cgroup_limits(make_host({"/proc/self/mountinfo": ""}))
    assert (limits.version, limits.quota_cpus, limits.cpuset) == (0, None, "")


def test_directory_of_another_namespace_is_unknown():
    assert directory(Hierarchy(2, frozenset(), "/sys/fs/cgroup", "/"), "/../other") is None
