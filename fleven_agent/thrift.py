"""Reads one integer field of a struct in Thrift's compact protocol: enough for the row count of a Parquet footer.

pyarrow would read it too, at a hundred times the daemon's memory. Format:
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md. Imports nothing.
"""

_MAXIMUM_DEPTH = 32
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)


class _Reader:
    def __init__(self, content: bytes) -> None:
        self.content = content
        self.position = 0

    def byte(self) -> int:
        value = self.content[self.position]
        self.position += 1
        return value

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if not byte & 0x80:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("an integer is too long")

    def signed(self) -> int:
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def field(self, last: int) -> tuple[int, int]:
        """Return (type, id) of the next field; type 0 ends the struct."""
        head = self.byte()
        if head == 0:
            return 0, 0
        delta = head >> 4
        return head & 0x0F, last + delta if delta else self.signed()

    def skip(self, kind: int, depth: int = 0) -> None:
        if depth > _MAXIMUM_DEPTH:
            raise ValueError("nested too deeply")
        match kind:
            case 1 | 2:
                return
            case 3:
                self.position += 1
            case 4 | 5 | 6:
                self.varint()
            case 7:
                self.position += 8
            case 8:
                length = self.varint()  # on a line of its own: it moves the position itself
                self.position += length
            case 9 | 10:
                self._skip_list(depth)
            case 11:
                self._skip_map(depth)
            case 12:
                last = 0
                while True:
                    inner, last = self.field(last)
                    if inner == 0:
                        return
                    self.skip(inner, depth + 1)
            case _:
                raise ValueError(f"unknown type {kind}")
        if self.position > len(self.content):
            raise ValueError("cut short")

    def _element(self, kind: int, depth: int) -> None:
        # Inside a container a boolean takes a byte; as a field it hides in the type.
        self.skip(_BYTE if kind in (_TRUE, _FALSE) else kind, depth + 1)

    def _skip_list(self, depth: int) -> None:
        head = self.byte()
        size = head >> 4
        size = self.varint() if size == 15 else size
        self._check(size)
        for _ in range(size):
            self._element(head & 0x0F, depth)

    def _skip_map(self, depth: int) -> None:
        size = self.varint()
        if size == 0:
            return
        self._check(size)
        kinds = self.byte()
        for _ in range(size):
            self._element(kinds >> 4, depth)
            self._element(kinds & 0x0F, depth)

    def _check(self, size: int) -> None:
        if size > len(self.content):
            raise ValueError("a list is longer than its file")


def field_of_struct(content: bytes, wanted: int) -> int | None:
    """Return the integer field ``wanted`` of the outermost struct, or None when it has none.

    Raises:
        ValueError, IndexError: when the content is damaged.
    """
    reader = _Reader(content)
    last = 0
    while True:
        kind, last = reader.field(last)
        if kind == 0:
            return None
        if last == wanted and kind in (_I16, _I32, _I64):
            return reader.signed()
        reader.skip(kind)
