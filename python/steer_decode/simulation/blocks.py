"""The prefix cache of one engine.

As vLLM has it: keys and values lie in blocks of a fixed size. A whole block stays when its call has
ended, to be found by the next call whose text begins alike, until room is needed: then the blocks
that were let go longest ago are taken, those at the end of a text first. The last token of a prompt
is always read, for its logits.
"""

from __future__ import annotations

from collections import OrderedDict


class CacheEntry:
    """What one engine holds of one conversation.

    Attributes:
        tokens: whose keys and values are there and right.
        blocks: that it takes up.
        over: whether the conversation has ended; its blocks stay until room is needed.
    """

    __slots__ = ("blocks", "over", "tokens")

    def __init__(self) -> None:
        self.tokens = 0
        self.blocks = 0
        self.over = False


class BlockCache:
    """Blocks of one engine, and who holds them.

    A call is admitted when there are blocks for all that it will write, so that none has to be
    preempted. vLLM takes blocks as it goes, admits more and preempts where that was too many.

    Args:
        block: tokens of a block; 1 is exact, as this package's own caches are.
        tokens: that fit; None for any number.

    Attributes:
        evicted: tokens that were let go though their conversation has not ended.
    """

    def __init__(self, block: int, tokens: int | None = None) -> None:
        self.block = block
        self._most = None if tokens is None else tokens // block
        self._used = 0
        self._spare = 0  # of them those that no call holds
        self._idle: OrderedDict[CacheEntry, None] = OrderedDict()
        self.evicted = 0

    def take(self, entry: CacheEntry, context: int, total: int) -> int | None:
        """Make room for a call.

        Args:
            entry: of its conversation.
            context: tokens that it has to have read.
            total: tokens of which it will hold keys and values at its end.

        Returns:
            Tokens that need not be read again; None where there is no room now.
        """
        found = min(entry.tokens, context - 1) // self.block * self.block
        if self._most is not None:
            needed = -(-total // self.block)
            more = needed - entry.blocks
            own = entry.blocks if entry in self._idle else 0
            if self._used + more - (self._spare - own) > self._most:
                return None
            self._wake(entry)
            self._evict(self._used + more - self._most)
            self._used += more
            entry.blocks = needed
        entry.tokens = found
        return found

    def release(self, entry: CacheEntry, held: int) -> None:
        """End a call that leaves ``held`` tokens read."""
        entry.tokens = held // self.block * self.block
        if self._most is not None:
            self._used -= entry.blocks
            self._rest(entry)

    def cut(self, entry: CacheEntry, tokens: int) -> None:
        """What was read beyond ``tokens`` is void.

        Its call has ended.
        """
        if entry.tokens <= tokens:
            return
        entry.tokens = tokens // self.block * self.block
        if self._most is not None:
            self._wake(entry)
            self._used -= entry.blocks
            self._rest(entry)

    def _rest(self, entry: CacheEntry) -> None:
        entry.blocks = entry.tokens // self.block
        self._used += entry.blocks
        self._spare += entry.blocks
        if entry.blocks:
            self._idle[entry] = None

    def _wake(self, entry: CacheEntry) -> None:
        if entry in self._idle:
            del self._idle[entry]
            self._spare -= entry.blocks

    def _evict(self, blocks: int) -> None:
        while blocks > 0:
            oldest = next(iter(self._idle))
            taken = min(blocks, oldest.blocks)
            oldest.blocks -= taken
            oldest.tokens = oldest.blocks * self.block
            self._used -= taken
            self._spare -= taken
            self.evicted += 0 if oldest.over else taken * self.block
            blocks -= taken
            if not oldest.blocks:
                del self._idle[oldest]
