"""Long lists a part at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

T = TypeVar("T")


def batched(items: Sequence[T], n: int) -> Iterator[Sequence[T]]:
    """The items in their order, n at a time, the rest last (`itertools.batched` needs Python 3.12).

    >>> list(batched("abcde", 2))
    ['ab', 'cd', 'e']
    """
    return (items[start : start + n] for start in range(0, len(items), n))
