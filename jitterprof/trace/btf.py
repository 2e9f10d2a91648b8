"""Member offsets and tracepoint prototypes of the running kernel, from its BTF (Documentation/bpf/btf.rst).

With these no kernel headers are needed, and a kernel difference is tested by the presence of a member, an argument or a
tracepoint, never by a version number.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from jitterprof.errors import ProbeUnavailable

VMLINUX = Path("/sys/kernel/btf/vmlinux")

_HEADER, _MAGIC = struct.Struct("<HBBIIIII"), b"\x9f\xeb"
_PTR, _STRUCT, _UNION, _TYPEDEF, _FUNC_PROTO = 2, 4, 5, 8, 13
# Bytes that follow the 12-byte header: fixed by kind, or per member (INT ARRAY VAR DECL_TAG; STRUCT UNION ENUM ...).
_FIXED = {1: 4, 3: 12, 14: 4, 17: 4}
_EACH = {_STRUCT: 12, _UNION: 12, 6: 8, _FUNC_PROTO: 8, 15: 12, 19: 12}
_LAST_KIND = 19  # ENUM64
_TRACEPOINT_PREFIX = "btf_trace_"


@dataclass(frozen=True, slots=True)
class Member:
    """Where a struct member lies. `bit` is 0..7 inside byte `offset` (only bit fields are not 0)."""

    offset: int
    bit: int


class Btf:
    """The type information of one kernel. Raises ProbeUnavailable when it is not there or not readable."""

    def __init__(self, path: Path = VMLINUX) -> None:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ProbeUnavailable(
                f"the kernel's type information cannot be read: {path}: {error.strerror}",
                "eBPF probes need a kernel built with CONFIG_DEBUG_INFO_BTF=y (every major distribution's is)",
            ) from error
        if len(data) < _HEADER.size or data[:2] != _MAGIC:
            raise ProbeUnavailable(f"{path} is not little-endian BTF", "")
        _, _, _, header, types, types_length, strings, strings_length = _HEADER.unpack_from(data)
        if max(header + types + types_length, header + strings + strings_length) > len(data):
            raise ProbeUnavailable(f"{path} ends before its type information does", "")
        self._data = data
        self._strings = data[header + strings : header + strings + strings_length]
        self._starts = [0]
        self._named: dict[int, list[int]] = {}
        unknown = self._index(header + types, header + types + types_length)
        if unknown:
            raise ProbeUnavailable(
                f"{path} has types of kind {unknown}, which this version cannot read", "a newer jitterprof may"
            )

    def _index(self, position: int, end: int) -> int:
        """Note where each type begins. Returns a kind whose length is not known, or 0."""
        unpack = struct.Struct("<II").unpack_from
        data, starts, named = self._data, self._starts, self._named
        while position < end:
            name, info = unpack(data, position)
            kind = (info >> 24) & 31
            if kind > _LAST_KIND:
                return int(kind)
            starts.append(position)
            if kind in (_STRUCT, _UNION, _TYPEDEF) and name:
                named.setdefault(name, []).append(position)
            position += 12 + (_EACH[kind] * (info & 0xFFFF) if kind in _EACH else _FIXED.get(kind, 0))
        return 0

    def _types(self, name: str) -> list[int]:
        offset = self._strings.find(b"\0" + name.encode() + b"\0") + 1
        return self._named.get(offset, []) if offset else []

    def _name(self, offset: int) -> str:
        return self._strings[offset : self._strings.index(b"\0", offset)].decode()

    def _kind(self, position: int) -> int:
        return (int(struct.unpack_from("<I", self._data, position + 4)[0]) >> 24) & 31

    def _find(self, position: int, member: str) -> tuple[int, int] | None:
        """Bit offset and type of a member, looking into anonymous structs and unions too."""
        (info,) = struct.unpack_from("<I", self._data, position + 4)
        for number in range(info & 0xFFFF):
            name, kind, bits = struct.unpack_from("<III", self._data, position + 12 + 12 * number)
            bits = bits & 0xFFFFFF if info >> 31 else bits
            if name == 0:
                inner = self._starts[kind]
                if self._kind(inner) in (_STRUCT, _UNION):
                    found = self._find(inner, member)
                    if found is not None:
                        return bits + found[0], found[1]
            elif self._name(name) == member:
                return bits, kind
        return None

    def member(self, struct_name: str, path: str) -> Member | None:
        """Where `path` ("pid", or "thread_info.cpu" through embedded structs) lies in a struct; None: not here."""
        for candidate in self._types(struct_name):
            if self._kind(candidate) != _STRUCT:
                continue
            position, bits = candidate, 0
            for name in path.split("."):
                found = self._find(position, name)
                if found is None:
                    break
                bits += found[0]
                position = self._starts[found[1]]
            else:
                return Member(bits // 8, bits % 8)
        return None

    def tracepoint_arguments(self, name: str) -> int | None:
        """How many arguments a tracepoint passes to a raw tracepoint program; None when the kernel has no such one."""
        for position in self._types(_TRACEPOINT_PREFIX + name):
            (pointer,) = struct.unpack_from("<I", self._data, position + 8)
            (prototype,) = struct.unpack_from("<I", self._data, self._starts[pointer] + 8)
            (info,) = struct.unpack_from("<I", self._data, self._starts[prototype] + 4)
            if (info >> 24) & 31 == _FUNC_PROTO:
                return int(info & 0xFFFF) - 1  # the first one is the probe's private pointer
        return None

    def missing_tracepoints(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those of `names` that this kernel does not have."""
        return tuple(name for name in names if self.tracepoint_arguments(name) is None)
