"""The nodes that are ready, most urgent first: a priority queue that is cheap for groups.

Nodes become ready in groups and are taken in groups, so what arrives is only noted (`fresh`). A small queue is
then sorted, which costs little since most of it is in order already, and cut; only a large one is kept as a heap.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

__all__ = ["ReadyQueue"]

_SORTED_UP_TO = 4096


class ReadyQueue:
    """Urgencies (smaller is more urgent). `fresh` may be appended to directly.

    >>> queue = ReadyQueue()
    >>> queue.extend([3, 1, 2])
    >>> queue.take(2), len(queue)
    ([1, 2], 1)
    """

    __slots__ = ("_heap", "fresh")

    def __init__(self) -> None:
        self._heap: list[int] = []  # a heap; sorted lists are heaps
        self.fresh: list[int] = []

    def __len__(self) -> int:
        return len(self._heap) + len(self.fresh)

    def __bool__(self) -> bool:
        return bool(self.fresh or self._heap)

    def push(self, urgency: int) -> None:
        self.fresh.append(urgency)

    def extend(self, urgencies: Iterable[int]) -> None:
        self.fresh.extend(urgencies)

    def discard(self, urgencies: set[int]) -> None:
        """These are not ready any more. O(n)."""
        kept = [each for each in (*self._heap, *self.fresh) if each not in urgencies]
        kept.sort()
        self._heap = kept
        self.fresh.clear()

    def take(self, most: int) -> list[int]:
        """The most urgent ones, in order, at most that many."""
        heap, fresh = self._heap, self.fresh
        if len(heap) + len(fresh) <= _SORTED_UP_TO:
            if fresh:
                heap += fresh
                fresh.clear()
                heap.sort()
            elif len(heap) > most:
                heap.sort()  # a heap that was large before
            taken = sorted(heap[:most])
            del heap[:most]
            return taken
        if len(fresh) * 8 > len(heap):
            heap += fresh
            heapq.heapify(heap)
        else:
            for urgency in fresh:
                heapq.heappush(heap, urgency)
        fresh.clear()
        return [heapq.heappop(heap) for _ in range(min(most, len(heap)))]
