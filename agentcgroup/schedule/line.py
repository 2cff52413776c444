"""A line of calls that share one amount of memory, and what each may take without harm to those before it.  Pure.

Each call has a rank: its priority, then its age.  What is left when everybody before call k has finished and
given back what it holds, and k takes all that it announced, is k's slack:

    slack(k) = free + (sum of what those before k hold) - (what k announced beyond what it holds)

A call may take as much as the smallest slack of those before it, so that each of them can still finish: the
banker's algorithm (Dijkstra 1965, EWD 108) for one resource and a given order.  The order is given by
priority, so nobody of a higher rank ever waits for what a lower one announced.

A tree over the ranks holds sums and smallest slacks, so each operation takes O(log n).
"""

from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
_FIRST_WIDTH = 64
_NONE = (0, float("inf"), -1)
"""Held, smallest slack (without what is free), and at which leaf it is: of no calls at all."""

_Node = tuple[int, float, int]


class Line(Generic[Key]):
    """Calls in ``levels`` priorities (0 is first) that share ``capacity`` bytes.

    ``reserve`` bytes beyond that are handed out only by ``lend``, and come back when nobody holds them any more.
    """

    def __init__(self, capacity: int, levels: int = 1, reserve: int = 0) -> None:
        self.capacity, self.reserve = capacity, reserve
        self.lent = 0
        self.held = 0
        self._levels = levels
        self._place: dict[Key, int] = {}
        self._keys: dict[int, Key] = {}
        self._width = _FIRST_WIDTH
        self._size = 0
        self._tree: list[_Node] = []
        self._resize(_FIRST_WIDTH)

    @property
    def free(self) -> int:
        """Bytes that nobody holds; negative when more is held than there is."""
        return self.capacity + self.lent - self.held

    def change(self, capacity: int, reserve: int) -> None:
        """There is another amount to share.  No more stays lent than the reserve has now."""
        self.capacity, self.reserve = capacity, reserve
        self.lent = min(self.lent, reserve)

    def lend(self, amount: int) -> int:
        """Take up to ``amount`` bytes from the reserve; returns how much there was."""
        found = max(0, min(amount, self.reserve - self.lent))
        self.lent += found
        return found

    def restore(self) -> None:
        """What was lent and is no longer held is reserve again."""
        self.lent = max(0, min(self.lent, self.held - self.capacity))

    def add(self, key: Key, level: int) -> None:
        """Put a call at the end of its level."""
        if self._next[level] == self._width:
            live = sum(1 for place in self._place.values() if place // self._width == level)
            self._resize(self._width * 2 if live > self._width // 2 else self._width)
        place = level * self._width + self._next[level]
        self._next[level] += 1
        self._place[key], self._keys[place] = place, key
        self._put(place, (0, 0, place))

    def set(self, key: Key, held: int, announced: int) -> None:
        """What a call holds, and what it may want beyond that."""
        place = self._place[key]
        self.held += held - self._tree[self._size + place][0]
        self._put(place, (held, -announced, place))

    def remove(self, key: Key) -> None:
        """A call has ended."""
        place = self._place.pop(key)
        del self._keys[place]
        self.held -= self._tree[self._size + place][0]
        self._put(place, _NONE)

    def room(self, key: Key) -> tuple[int, Key | None]:
        """How much a call may take (negative: others lack so much), and whose need it is that sets the bound.

        None stands for what is free.
        """
        before = self._before(self._place[key])
        slack = self.free + before[1]
        if slack >= self.free:
            return self.free, None
        return int(slack), self._keys[before[2]]

    def __len__(self) -> int:
        return len(self._place)

    def __contains__(self, key: Key) -> bool:
        return key in self._place

    def _before(self, place: int) -> _Node:
        """All ranks before one, folded together."""
        found, node = _NONE, self._size + place
        while node > 1:
            if node % 2:
                found = _join(self._tree[node - 1], found)
            node //= 2
        return found

    def _put(self, place: int, value: _Node) -> None:
        tree, node = self._tree, self._size + place
        tree[node] = value
        while node > 1:
            node //= 2
            tree[node] = _join(tree[2 * node], tree[2 * node + 1])

    def _resize(self, width: int) -> None:
        """Make room for ``width`` calls in each level, and close the gaps of those that have ended."""
        old = sorted((place, key, self._tree[self._size + place]) for place, key in self._keys.items())
        before, self._width = self._width, width
        self._size = 1 << (self._levels * width - 1).bit_length()
        self._tree = [_NONE] * (2 * self._size)
        self._next = [0] * self._levels
        self._keys.clear()
        for place, key, (held, slack, _) in old:
            level = place // before
            new = level * width + self._next[level]
            self._next[level] += 1
            self._place[key], self._keys[new] = new, key
            self._put(new, (held, slack, new))


def _join(left: _Node, right: _Node) -> _Node:
    """Two neighbouring stretches of the line as one: the right one's slacks gain what the left one holds."""
    held = left[0]
    if left[1] <= held + right[1]:
        return held + right[0], left[1], left[2]
    return held + right[0], held + right[1], right[2]
