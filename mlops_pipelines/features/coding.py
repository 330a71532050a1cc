"""Keys and times as whole numbers: what grouping, sorting and searching are done on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

HOUR_US = 3_600_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def shared_codes(
    left: Sequence[pa.ChunkedArray], right: Sequence[pa.ChunkedArray]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Codes of two lists of composite keys: equal keys have equal codes, on both sides.

    left, right: one array a key column, in the same order, of strings, whole numbers or timestamps.
    Returns codes from 0 without large gaps; -1 where any part of the key is null.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    size = len(left[0])
    codes = np.zeros(size + len(right[0]), dtype=np.int64)
    missing = np.zeros(len(codes), dtype=bool)
    for a, b in zip(left, right, strict=True):
        both = pa.chunked_array([*_plain(a).chunks, *_plain(b).chunks], type=_plain(a).type)
        encoded = both.combine_chunks().dictionary_encode()
        part = pc.fill_null(encoded.indices, 0).to_numpy(zero_copy_only=False).astype(np.int64)
        missing |= both.is_null().to_numpy()
        codes = codes * max(len(encoded.dictionary), 1) + part
        if len(left) > 1:
            # Keeps the product of the next column within 64 bits.
            codes = np.unique(codes, return_inverse=True)[1].astype(np.int64)
    codes[missing] = -1
    return codes[:size], codes[size:]


def codes_of(columns: Sequence[pa.ChunkedArray]) -> NDArray[np.int64]:
    """Codes of one list of composite keys, as `shared_codes` gives them."""
    return shared_codes(columns, [column.slice(0, 0) for column in columns])[0]


def places_of(
    codes: Sequence[NDArray[np.int64]], moments: Sequence[NDArray[np.int64]]
) -> list[NDArray[np.int64]]:
    """One whole number for each pair of a code and a moment: in the order of the codes, then of the moments.

    codes, moments: several lists of pairs, of which at least one has a pair; all are numbered alike. Codes
    are as `shared_codes` gives them.
    """
    import numpy as np

    lowest = min(int(each.min()) for each in moments if len(each))
    stretch = max(int(each.max()) for each in moments if len(each)) - lowest + 1
    if stretch * (max(int(each.max()) for each in codes if len(each)) + 2) < 2**62:
        numbers = [each - lowest for each in moments]
    else:
        # Numbered without gaps, both fit into 64 bits together.
        _, together = np.unique(np.concatenate(moments), return_inverse=True)
        stretch = len(together)
        numbers = np.split(together, np.cumsum([len(each) for each in moments])[:-1])
    return [code * stretch + number for code, number in zip(codes, numbers, strict=True)]


def count_up_to(places: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many of `places`, which are sorted, are at most each of `ends`."""
    import numpy as np

    # Of a million moments, sorting and looking up in order takes a quarter of looking up at random.
    order = np.argsort(ends)
    counts = np.empty(len(ends), dtype=np.int64)
    counts[order] = np.searchsorted(places, ends[order], side="right")
    return counts


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column as plain 64-bit integers or strings, however it was encoded."""
    import pyarrow as pa

    type_ = column.type
    if pa.types.is_timestamp(type_):
        return column.cast(pa.timestamp("us", tz=type_.tz)).cast(pa.int64())
    value_type = type_.value_type if pa.types.is_dictionary(type_) else type_
    plain = pa.int64() if pa.types.is_integer(value_type) else pa.string()
    return column if type_ == plain else column.cast(plain)


def microseconds(times: pa.ChunkedArray) -> NDArray[np.int64]:
    """Microseconds since 1970 UTC of timestamps without nulls."""
    import pyarrow as pa

    numbers: NDArray[np.int64] = times.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()
    return numbers


def floor_hour(moments: NDArray[np.int64]) -> NDArray[np.int64]:
    """Whole hours since 1970 UTC of microseconds since 1970 UTC, rounded down."""
    return moments // HOUR_US


def moment(us: int) -> datetime:
    """The UTC time of microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=us)
