"""What the C extension offers. All arrays are contiguous and aligned; sizes that do not fit raise ValueError."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from modelkit.tensors import F32, Array


class Native(Protocol):
    """The module `_native`, written in native/module.c. Every call works without the interpreter's lock."""

    def encode(self, name: str, values: F32, importance: F32 | None, out: Array) -> None:
        """Blocks of ggml; `importance` [column] cuts the values into rows of its length."""

    def decode(self, name: str, blocks: Array, out: F32) -> None:
        """The values of blocks of ggml."""

    def multiply(self, name: str, blocks: Array, vector: F32, out: F32) -> None:
        """out[row] = the row of blocks times the vector."""

    def narrow(self, name: str, values: F32, out: Array) -> None:
        """Small floats, rounded to nearest even; what is too large becomes infinite or NaN."""

    def widen(self, name: str, data: Array, out: F32) -> None:
        """float32 from small floats."""

    def convert(  # the extension takes no keywords
        self,
        source: str,
        data: Array,
        target: str,
        out: Array,
        limit: float,
        finite: bool,  # noqa: FBT001
    ) -> tuple[float, float, float] | None:
        """Stored bytes into stored bytes, and what `difference` says of their values.

        None, with `out` half written, at a magnitude above `limit`, at a NaN or infinity where only finite values may
        be, or when a scale overflows.
        """

    def scan(self, values: F32) -> tuple[float, int]:
        """(the largest finite magnitude, the place of the first NaN or infinity or -1)."""

    def statistics(self, values: F32, around: float) -> tuple[float, float, float, float, int, int, int]:
        """Of the finite values: low, high, sum of (x - around), sum of its squares; zeros, NaN and infinities."""

    def difference(self, before: F32, after: F32) -> tuple[float, float, float]:
        """(largest, sum of squares) of after - before, sum of squares of before; where before is finite."""

    def extremes(self, values: F32, lows: F32, highs: F32) -> None:
        """The smallest and largest value of each group; there are as many groups as `lows` has places."""

    def group_codes(
        self, values: F32, scales: F32, zeros: Array | None, lowest: int, highest: int, codes: Array
    ) -> None:
        """x / scale, rounded half to even, plus zero, cut to lowest..highest."""

    def group_values(self, codes: Array, scales: F32, zeros: Array | None, out: F32) -> None:
        """(code - zero) * scale."""

    def multiply_groups(self, codes: Array, scales: F32, zeros: Array | None, vector: F32, out: F32) -> None:
        """out[row] = the row of groups times the vector."""

    def unpack_bits(self, packed: Array, rows: int, bits: int, codes: Array) -> None:
        """Rows of dense codes, uint8, into a byte for each."""

    def pack_bits(self, codes: Array, rows: int, bits: int, packed: Array) -> None:
        """Rows of codes of a byte each into dense ones; zeros behind them."""

    def unpack_padded(self, words: Array, rows: int, bits: int, codes: Array) -> None:
        """Rows of codes of which none crosses a word, uint32, into a byte for each."""

    def turn_words(
        self, words: Array, wide: int, first: int, out: Array, high: int, top: int, rows: int, columns: int
    ) -> None:
        """out[column, top + row] = words[row, first + column], uint32; `wide` and `high`: words in a row of each."""

    def from_awq(self, words: Array, wide: int, first: int, n: int, count: int, dense: Array) -> None:
        """uint32 [n, `count` from `first` on, of `wide`] of AWQ into [eight of n, row]."""

    def to_awq(self, words: Array, wide: int, first: int, n: int, count: int, dense: Array) -> None:
        """The way back, into `words`."""

    def code_values(
        self,
        codes: Array,
        columns: int,
        group: int,
        middle: int,
        scales: F32,
        zeros: Array | None,
        biases: F32 | None,
        out: F32,
    ) -> None:
        """(code - zero) * scale, or code * scale + bias; see `words.values`."""

    def use(self, build: str = ...) -> str:
        """The build that works, avx2 or plain; with a name, that one works from now on."""
