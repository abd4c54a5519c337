"""The draft trie of one turn, rooted at the committed frontier (docs/protocol.md, "Up: a draft trie").

A draft token enters by `add` and may be verified once it is released. It leaves by `commit`: the accepted
one becomes the root, its rejected siblings are dropped with all that hangs from them. `best_chain` only reads
what the next step verifies. The ids of committed nodes are remembered, so that frames under way find their
anchor, until `_make_room` needs the room.

Pure values. Whatever an edge sends, `add` never raises: a node whose parent is unknown, was rejected, or
disagrees with the committed tokens is dropped. A dropped draft costs time, never correctness.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipesd_vllm.wire import MAX_DRAFT_TOKENS, common_prefix_length

_MOST_LOST = 64
"""Drafts remembered of a chain that the target has parted from."""
_MAX_EDIT = 16
"""Tokens after which an edited copy must have come back to its original."""
_GUESSED = 3
"""Drafts taken from where the chain would be if one token had been put in another's place."""
_TAKEN_UP, _REPLACED = 153, 77
"""Confidence of the first draft of a chain that is taken up again, found or guessed."""
MAX_NODES = 4096
"""Most node ids a trie remembers; adding beyond it is refused (a bound on memory)."""


class Node:
    """A draft. `confidence`: what its edge says of it, 0 to 255; None: nothing."""

    __slots__ = ("children", "confidence", "ids", "position", "serial", "token")

    def __init__(self, token: int, position: int, serial: int, confidence: int | None = None) -> None:
        self.token = token
        self.position = position
        self.serial = serial
        self.confidence = confidence
        self.children: dict[int, Node] = {}
        self.ids: list[int] = []

    def subtree(self) -> Iterator[Node]:
        """It, and all that hangs from it."""
        stack = [self]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(node.children.values())


class DraftTrie:
    """Drafts of one turn that may still come true.

    `frontier` is the position the next committed token will have. A node is *released* once a
    frame with the verify flag came with or after it.
    """

    def __init__(self, frontier: int) -> None:
        self._start = frontier
        self._committed: list[int] = []
        self._root = Node(token=-1, position=frontier - 1, serial=0)
        self._nodes: dict[int, Node] = {}
        self._serial = 0
        self._released_serial = 0
        self._lost: list[Node] = []
        """The chain that the target parted from, from the draft on that it did not take."""
        self._since_lost = 0
        """Tokens committed from there on."""
        self._goes_on_at = -1
        """Where in it the text goes on, if it does."""
        self._resumed: list[Node] = []
        """What is offered of the lost chain while there are no drafts."""

    @property
    def frontier(self) -> int:
        return self._root.position + 1

    @property
    def num_live_ids(self) -> int:
        """Node ids remembered, committed ones included."""
        return len(self._nodes)

    def add(
        self,
        first: int,
        base: int,
        anchor: int,
        tokens: Sequence[int],
        parents: Sequence[int] | None = None,
        confidences: bytes = b"",
    ) -> int:
        """Add a `Draft` frame's nodes; returns how many can still come true."""
        self._make_room(len(tokens))
        self._serial += 1
        origin = self._origin(base, anchor)
        placed: list[Node | None] = []
        for index, token in enumerate(tokens):
            parent = self._parent(index, parents, placed, origin)
            confidence = confidences[index] if index < len(confidences) else None
            placed.append(self._place(parent, token, first + index, confidence))
        return sum(node is not None and node.position >= self.frontier for node in placed)

    def num_agreed(self, base: int, tokens: Sequence[int]) -> int:
        """How many of `tokens`, a chain from position `base` on, were committed there."""
        if base < self._start:
            return 0
        committed = self._committed[base - self._start : base - self._start + len(tokens)]
        return common_prefix_length(committed, tokens)

    def release(self) -> None:
        """The NAV trigger: everything the trie holds now may be verified."""
        self._released_serial = self._serial

    def has_released(self) -> bool:
        """Whether a released draft continues the committed prefix."""
        return any(child.serial <= self._released_serial for child in self._root.children.values())

    def best_chain(self, limit: int) -> list[Node]:
        """The most likely continuation of the committed prefix: first children, at most `limit`."""
        chain: list[Node] = []
        node = self._root
        while node.children and len(chain) < limit:
            node = next(iter(node.children.values()))
            chain.append(node)
        return chain

    @property
    def has_drafts(self) -> bool:
        """Whether a draft, released or not, continues the committed prefix."""
        return bool(self._root.children)

    def offered(self, limit: int) -> list[Node]:
        """The best chain, or what may be left of one that the target parted from; at most `limit`."""
        return self.best_chain(limit) if self.has_drafts else self._resumed[:limit]

    def commit(self, tokens: Sequence[int]) -> None:
        """Move the frontier over `tokens`; drafts that disagree with them are dropped."""
        for token in tokens:
            kept = self._root.children.pop(token, None)
            self._follow_lost(token, was_drafted=kept is not None)
            for rejected in self._root.children.values():
                self._forget(rejected)
            self._root.children = {}
            self._root = kept or Node(token, self.frontier, self._serial)
            self._committed.append(token)

    def _follow_lost(self, token: int, *, was_drafted: bool) -> None:
        """The target has chosen `token`, which is not among the root's children any more.

        An edited copy mostly comes back to its original within a few tokens. The edge will say so, a round
        trip later; until then the chain is taken up again where its tokens are those of the text.
        """
        if was_drafted:
            self._lost, self._resumed = [], []
            return
        if self._root.children:
            self._lost, self._since_lost, self._goes_on_at = self.best_chain(_MOST_LOST), 0, -1
        self._since_lost += 1
        if 0 <= self._goes_on_at < len(self._lost) and self._lost[self._goes_on_at].token == token:
            self._goes_on_at += 1
            self._resumed = self._lost[self._goes_on_at :]
        elif self._since_lost > _MAX_EDIT:
            self._lost, self._resumed = [], []
        else:
            self._resumed = self._taken_up(token)

    def _taken_up(self, token: int) -> list[Node]:
        """What comes after `token` in the lost chain: where it stands nearest to its own place, or might."""
        lost, expected = self._lost, self._since_lost
        places = [i + 1 for i, node in enumerate(lost[: expected + _MAX_EDIT]) if node.token == token]
        self._goes_on_at = min(places, key=lambda place: abs(place - expected), default=expected)
        end = None if places else expected + _GUESSED
        found = lost[self._goes_on_at : end]
        confidence = _TAKEN_UP if places else _REPLACED
        return [Node(node.token, node.position, 0, confidence) for node in found[:1]] + found[1:]

    def _origin(self, base: int, anchor: int) -> Node | None:
        """The node a frame hangs from, or None if there is no such node any more."""
        if anchor:
            node = self._nodes.get(anchor)
            return node if node is not None and node.position == base - 1 else None
        if base == self.frontier:
            return self._root
        if self._start <= base < self.frontier:
            return Node(token=-1, position=base - 1, serial=0)
        return None

    @staticmethod
    def _parent(
        index: int, parents: Sequence[int] | None, placed: Sequence[Node | None], origin: Node | None
    ) -> Node | None:
        if parents is None:
            parent = index - 1
        elif index < len(parents):
            parent = parents[index]
        else:
            return None
        if parent < 0:
            return origin
        return placed[parent] if parent < len(placed) else None

    def _place(self, parent: Node | None, token: int, node_id: int, confidence: int | None) -> Node | None:
        if parent is None or node_id in self._nodes or len(self._nodes) >= MAX_NODES:
            return self._duplicate(parent, token, node_id)
        position = parent.position + 1
        if position < self.frontier:
            return self._place_behind(position, token, node_id)
        node = parent.children.get(token)
        if node is None:
            node = parent.children[token] = Node(token, position, self._serial, confidence)
        return self._remember(node, node_id)

    def _duplicate(self, parent: Node | None, token: int, node_id: int) -> Node | None:
        """A frame sent twice finds its nodes again; an id used for another token is dropped."""
        node = self._nodes.get(node_id)
        if node is None or parent is None:
            return None
        return node if node.token == token and node.position == parent.position + 1 else None

    def _place_behind(self, position: int, token: int, node_id: int) -> Node | None:
        """A draft of an already committed position: right (an alias of it) or dropped."""
        if self._committed[position - self._start] != token:
            return None
        if position == self.frontier - 1:
            return self._remember(self._root, node_id)
        return self._remember(Node(token, position, 0), node_id)

    def _remember(self, node: Node, node_id: int) -> Node:
        node.ids.append(node_id)
        self._nodes[node_id] = node
        return node

    def _forget(self, rejected: Node) -> None:
        for node in rejected.subtree():
            for node_id in node.ids:
                self._nodes.pop(node_id, None)

    def _make_room(self, num_new: int) -> None:
        """Forget nodes committed long ago when memory runs short.

        The last ones stay: a frame under way hangs from a node that was the newest when it was sent, and
        the passes since then, each with a token more than the drafts, have gone past that one.
        """
        if len(self._nodes) + num_new <= MAX_NODES:
            return
        oldest = self.frontier - MAX_DRAFT_TOKENS
        self._nodes = {i: n for i, n in self._nodes.items() if n.position >= oldest}
