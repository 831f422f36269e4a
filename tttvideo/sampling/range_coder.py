"""A range coder: a sequence of symbols of known probability as one number, in the fewest bytes.

Of G. N. N. Martin, "Range encoding", 1979; the integers of Python hold its numbers without loss.

A symbol is a part [start, start + size) of TOTAL. The encoder keeps an interval of integers,
[low, low + range), and replaces it by a part of it for each symbol: with part = range // TOTAL, by
[low + start part, low + (start + size) part), which lies inside because (start + size) part <=
TOTAL part <= range. When range < LEAST all is multiplied by 256. So all numbers that begin with
the same symbols lie in one interval, intervals of other beginnings are disjoint from it, and any
number of the last interval says all symbols: the decoder finds the one part that holds it.

Length: a symbol keeps the share size part / range > (size / TOTAL) (1 - TOTAL / range) of the
interval, and range >= LEAST = 2^88. So the n symbols keep less of it than sum log2(TOTAL / size)
bits say by at most n 2^-55 bits; and of b bytes, all but the last are bits that they cost, because
after b - 1 shifts range is still below 2^WIDTH. The code is less than a byte longer than its bits.
"""

WIDTH, PRECISION = 96, 32  # bits of range at most, and of TOTAL
TOTAL, LEAST, MASK = 1 << PRECISION, 1 << (WIDTH - 8), (1 << WIDTH) - 1
AHEAD = WIDTH // 8  # bytes that the decoder sees


class RangeEncoder:
    """Symbols to bytes. The lowest number is `code`, as an integer, times 2^WIDTH, plus `low`."""

    def __init__(self) -> None:
        self.low, self.range, self.code = 0, 1 << WIDTH, bytearray()

    def encode(self, start: int, size: int) -> None:
        """Append the symbol [start, start + size) of TOTAL; 0 < size, start + size <= TOTAL."""
        part = self.range >> PRECISION
        self.low += start * part
        self.range = size * part
        self.carry()
        while self.range < LEAST:
            self.shift()

    def carry(self) -> None:
        """Add what exceeds `low` to the bytes before it, of which one is below 255: the number is
        inside the first interval, whose numbers all have as many bytes."""
        if self.low <= MASK:
            return
        self.low &= MASK
        place = len(self.code) - 1
        while self.code[place] == 255:
            self.code[place] = 0
            place -= 1
        self.code[place] += 1

    def shift(self) -> None:
        """Multiply the interval by 256: the highest byte of `low` becomes the last of `code`."""
        self.code.append(self.low >> (WIDTH - 8))
        self.low = self.low << 8 & MASK
        self.range <<= 8

    def finish(self) -> bytes:
        """The bytes of a number in the interval: the next multiple of LEAST, of one more byte."""
        self.low = -(-self.low // LEAST) * LEAST
        self.carry()
        self.shift()
        return bytes(self.code)


class RangeDecoder:
    """Bytes to symbols: `code` is the number less `low`, of which AHEAD bytes are seen."""

    def __init__(self, data: bytes):
        self.data, self.place, self.range = data, AHEAD, 1 << WIDTH
        self.code = int.from_bytes(data[:AHEAD].ljust(AHEAD, b"\0"), "big")

    def target(self) -> int:
        """A number below TOTAL, inside the part of TOTAL that is the next symbol."""
        return min(self.code // (self.range >> PRECISION), TOTAL - 1)

    def remove(self, start: int, size: int) -> None:
        """Go on after the symbol [start, start + size) of TOTAL.

        Raises ValueError where the bytes end before the symbols.
        """
        part = self.range >> PRECISION
        self.code -= start * part
        self.range = size * part
        while self.range < LEAST:
            byte = self.data[self.place] if self.place < len(self.data) else 0
            self.code, self.range = self.code << 8 | byte, self.range << 8
            self.place += 1
        if self.place > len(self.data) + AHEAD - 1:
            raise ValueError("the code ends before its symbols do")

    @property
    def is_finished(self) -> bool:
        """Whether the symbols so far are all that the encoder wrote, up to its last bytes."""
        return self.place == len(self.data) + AHEAD - 1
