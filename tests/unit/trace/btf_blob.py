"""Builds small BTF blobs (Documentation/bpf/btf.rst) for the reader's tests. Type ids count from 1, 0 is void."""

import struct
from dataclasses import dataclass, field

INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF = 1, 2, 3, 4, 5, 6, 7, 8
VOLATILE, CONST, RESTRICT, FUNC, FUNC_PROTO, VAR, DATASEC, FLOAT = 9, 10, 11, 12, 13, 14, 15, 16
DECL_TAG, TYPE_TAG, ENUM64 = 17, 18, 19


@dataclass
class Blob:
    """Add types in order, then `encode`."""

    header_size: int = 24
    _strings: bytearray = field(default_factory=lambda: bytearray(b"\0"))
    _types: bytearray = field(default_factory=bytearray)
    _count: int = 0

    def _name(self, name: str) -> int:
        at = self._strings.find(b"\0" + name.encode() + b"\0") + 1
        if not name or at:
            return at if name else 0
        self._strings += name.encode() + b"\0"
        return len(self._strings) - len(name) - 1

    def add(
        self, kind: int, name: str = "", size_or_type: int = 0, vlen: int = 0, tail: bytes = b"", flag: int = 0
    ) -> int:
        info = flag << 31 | kind << 24 | vlen
        self._types += struct.pack("<III", self._name(name), info, size_or_type) + tail
        self._count += 1
        return self._count

    def integer(self, name: str = "int", size: int = 4) -> int:
        return self.add(INT, name, size, tail=struct.pack("<I", size * 8))

    def composite(
        self, kind: int, name: str, size: int, members: list[tuple[str, int, int]], bit_sizes: list[int] | None = None
    ) -> int:
        """`members`: (name, type, bit offset). With `bit_sizes` the struct is one with bit fields (kind_flag)."""
        tail = b""
        for index, (member, kind_of, bits) in enumerate(members):
            packed = bits if bit_sizes is None else bit_sizes[index] << 24 | bits
            tail += struct.pack("<III", self._name(member), kind_of, packed)
        return self.add(kind, name, size, len(members), tail, int(bit_sizes is not None))

    def prototype(self, arguments: list[int]) -> int:
        tail = b"".join(struct.pack("<II", 0, argument) for argument in arguments)
        return self.add(FUNC_PROTO, "", 0, len(arguments), tail)

    def tracepoint(self, name: str, arguments: int) -> int:
        """The typedef that every tracepoint has: a pointer to a function of its private pointer and its arguments."""
        prototype = self.prototype([0] * (arguments + 1))
        return self.add(TYPEDEF, f"btf_trace_{name}", self.add(PTR, "", prototype))

    def encode(self, magic: int = 0xEB9F) -> bytes:
        header = struct.pack(
            "<HBBIIIII", magic, 1, 0, self.header_size, 0, len(self._types), len(self._types), len(self._strings)
        )
        return header.ljust(self.header_size, b"\0") + bytes(self._types) + bytes(self._strings)
