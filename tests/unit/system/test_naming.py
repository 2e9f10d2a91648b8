import mmap
import os

import numpy as np

from jitterprof.system.files import Host
from jitterprof.system.naming import (
    cgroup_paths,
    device_names,
    interrupt_rows,
    irq_names,
    kernel_symbols,
    memory_maps,
)


def test_recorded_irq_names(guest):
    names = irq_names(guest)
    assert names[36] == "virtio1-req.0"  # from sysfs
    assert names[41] == "virtio3-rx"  # only in /proc/interrupts
    assert names[24] == "ACPI:Ged"
    assert "LOC" not in names


def test_irq_names_of_other_machines(make_host):
    """arm64 and shared lines; four CPUs; a line without an action."""
    host = make_host(
        {
            "/proc/interrupts": (
                "           CPU0       CPU1       CPU2       CPU3\n"
                " 11:       7446      18318      13001       8001     GICv3  27 Level     arch_timer\n"
                " 16:          1          0          0          0  IR-IO-APIC   16-fasteoi   ehci_hcd:usb1, snd_hda\n"
                "IPI0:        35         44         55         66       Rescheduling interrupts\n"
                "Err:          0\n"
            )
        }
    )
    assert irq_names(host) == {11: "arch_timer", 16: "ehci_hcd:usb1, snd_hda"}
    assert interrupt_rows(host)["IPI0"] == ((35, 44, 55, 66), "Rescheduling interrupts")
    assert interrupt_rows(host)["Err"][0] == (0,)


KALLSYMS = """\
ffffffff81000000 T _text
ffffffff81000000 T _stext
ffffffff81000100 t first
ffffffff81000180 d data_between
ffffffff81000200 T second
ffffffffc0000000 t in_module\t[virtio_net]
"""


def test_symbols_are_the_nearest_function_below(make_host):
    host = make_host({"/proc/kallsyms": KALLSYMS})
    base = 0xFFFFFFFF81000000
    found, reason = kernel_symbols(
        host, [base + 0x100, base + 0x1FF, base + 0x210, base + 1, 0xFFFFFFFFC0000004, 0, 64]
    )
    assert reason == ""
    assert found == {
        base + 0x100: "first",
        base + 0x1FF: "first",
        base + 0x210: "second",
        base + 1: "_text",
        0xFFFFFFFFC0000004: "in_module",
    }


def test_hidden_symbols_give_a_reason(make_host):
    host = make_host({"/proc/kallsyms": "0000000000000000 T _text\n"})
    found, reason = kernel_symbols(host, [1, 2])
    assert found == {} and "CAP_SYSLOG" in reason
    assert kernel_symbols(host, []) == ({}, "")


def test_symbols_take_numpy_addresses(make_host):
    host = make_host({"/proc/kallsyms": KALLSYMS})
    assert list(kernel_symbols(host, np.array([0xFFFFFFFF81000205], dtype=np.uint64))[0].values()) == ["second"]


def test_device_names(guest, make_host):
    assert device_names(guest, [254 << 20]) == {254 << 20: "vda"}
    partition = make_host({"/sys/dev/block/259:3/uevent": "MAJOR=259\nMINOR=3\nDEVNAME=nvme0n1p2\nDEVTYPE=partition\n"})
    assert device_names(partition, [(259 << 20) | 3, 8 << 20]) == {(259 << 20) | 3: "nvme0n1p2", 8 << 20: "8:0"}


def test_cgroup_ids_are_inode_numbers(make_host, tmp_path):
    host = make_host(
        {
            "/proc/self/mountinfo": "30 23 0:26 / /cg rw - cgroup2 cgroup2 rw\n",
            "/cg/cgroup.controllers": "cpu\n",
            "/cg/a/b/cpu.stat": "",
            "/cg/c/cpu.stat": "",
        }
    )
    number = (tmp_path / "cg/a/b").stat().st_ino
    assert cgroup_paths(host, [number, 1]) == {number: "/a/b"}
    assert set(cgroup_paths(host).values()) == {"/", "/a", "/a/b", "/c"}


def test_maps_of_this_process(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(b"x" * 8192)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 8192, prot=mmap.PROT_READ) as mapped:
        rows = memory_maps(Host(), os.getpid())
        assert len(mapped) == 8192
    assert any(what == "file:weights.bin" and end - start == 8192 for start, end, what in rows)
    assert any(what == "stack" for _, _, what in rows)
    assert all(start < end for start, end, _ in rows)
    assert list(rows) == sorted(rows)


def test_maps_merge_neighbours(make_host):
    host = make_host(
        {
            "/proc/5/maps": (
                "1000-2000 r--p 00000000 fe:00 1 /lib/libx.so.1\n"
                "2000-3000 r-xp 00001000 fe:00 1 /lib/libx.so.1\n"
                "4000-5000 rw-p 00000000 00:00 0 \n"
                "5000-6000 rw-p 00000000 00:00 0 [heap]\n"
                "6000-7000 rw-s 00000000 00:01 9 /dev/shm/pool (deleted)\n"
            )
        }
    )
    assert memory_maps(host, 5) == (
        (0x1000, 0x3000, "file:libx.so.1"),
        (0x4000, 0x5000, "anonymous"),
        (0x5000, 0x6000, "heap"),
        (0x6000, 0x7000, "shm:pool"),
    )
    assert memory_maps(host, 6) == ()
