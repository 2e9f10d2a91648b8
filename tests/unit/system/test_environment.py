import json

import pytest

from jitterprof.system.environment import cpu_model, read_environment
from jitterprof.system.files import Host

CPU = "/sys/devices/system/cpu"


def test_recorded_guest(guest):
    environment = read_environment(guest)
    assert environment.cpus.online == "0-1"
    assert environment.cpus.numa == {"0": "0-1"}
    assert environment.power.idle_states == ("POLL:0", "haltpoll idle:1")
    assert environment.hypervisor == "kvm"
    assert environment.clocksource == "tsc"
    assert environment.memory.thp == "madvise"
    assert {irq.number: irq.name for irq in environment.irqs}[36] == "virtio1-req.0"
    assert next(irq for irq in environment.irqs if irq.number == 36).cpus == "1"
    assert "spectre_v2" in environment.mitigations
    assert "meltdown" not in environment.mitigations


def test_fingerprint_is_json_and_repeats(guest):
    document = json.dumps(read_environment(guest).to_json(), sort_keys=True)
    assert document == json.dumps(read_environment(guest).to_json(), sort_keys=True)
    assert json.loads(document)["kernel"]["hz"]["value"] == 250


def test_bare_metal_with_everything(make_host):
    host = make_host(
        {
            f"{CPU}/online": "0-3",
            f"{CPU}/isolated": "2-3",
            f"{CPU}/nohz_full": "2-3",
            "/proc/cmdline": "isolcpus=2-3 nohz_full=2-3 quiet",
            **{f"{CPU}/cpu{cpu}/topology/thread_siblings_list": f"{cpu % 2},{cpu % 2 + 2}" for cpu in range(4)},
            **{f"{CPU}/cpu{cpu}/cpufreq/scaling_governor": "powersave" for cpu in range(3)},
            f"{CPU}/cpu3/cpufreq/scaling_governor": "performance",
            **{f"{CPU}/cpu{cpu}/cache/index{at}/level": str(at) for cpu in range(4) for at in (1, 3)},
            **{f"{CPU}/cpu{cpu}/cache/index1/shared_cpu_list": f"{cpu % 2},{cpu % 2 + 2}" for cpu in range(4)},
            **{f"{CPU}/cpu{cpu}/cache/index3/shared_cpu_list": "0-2" if cpu < 3 else "3" for cpu in range(4)},
            f"{CPU}/cpu0/cpufreq/scaling_driver": "intel_pstate",
            f"{CPU}/cpu0/cpufreq/cpuinfo_max_freq": "3800000",
            f"{CPU}/cpu0/cpufreq/energy_performance_preference": "balance_performance",
            f"{CPU}/intel_pstate/no_turbo": "1",
            f"{CPU}/cpu0/cpuidle/state2/name": "C6",
            f"{CPU}/cpu0/cpuidle/state2/latency": "133",
            f"{CPU}/cpu0/cpuidle/state2/disable": "1",
            "/proc/cpuinfo": "processor: 0\nmodel name\t: Example CPU\nflags\t\t: fpu\n",
            "/proc/swaps": "Filename Type Size Used Priority\n/dev/zram0 partition 1024 0 100\n",
            "/proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Kernel Module  550.54.15  Tue\nGCC version: 12\n",
            "/proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t\t NVIDIA H200\n",
            "/sys/module/amdgpu/version": "6.7.0",
            "/sys/kernel/security/lockdown": "none [integrity] confidentiality",
        }
    )
    environment = read_environment(host)
    assert read_environment(host).cpus.caches == ("0-2",)
    assert environment.isolation.isolated == environment.isolation.nohz_full == "2-3"
    assert environment.isolation.boot == ("isolcpus=2-3", "nohz_full=2-3")
    assert environment.cpus.siblings == ("0,2", "1,3")
    assert environment.cpus.max_khz == 3_800_000
    assert environment.power.governors == ("performance", "powersave")
    assert environment.power.boost == "0"
    assert environment.power.idle_states == ("C6:133 (disabled)",)
    assert environment.memory.swap == ("/dev/zram0:1048576",)
    assert environment.lockdown == "integrity"
    assert environment.hypervisor == ""
    assert [(gpu.kind, gpu.driver, gpu.devices) for gpu in environment.gpus] == [
        ("nvidia", "550.54.15", ("NVIDIA H200",)),
        ("amd", "6.7.0", ()),
    ]


def test_arm_has_no_model_name(make_host):
    host = make_host({"/proc/cpuinfo": "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd4f\n"})
    assert cpu_model(host) == "ARM implementer 0x41 part 0xd4f"


def test_an_empty_host_is_no_error(tmp_path):
    environment = read_environment(Host(tmp_path))
    assert environment.irqs == () and environment.cgroup.version == 0
    json.dumps(environment.to_json())


def test_live_host():
    environment = read_environment(Host())
    if not environment.kernel.release:
        pytest.fail("this machine has no kernel release")
    assert environment.cpus.online and environment.memory.total_bytes > 0
