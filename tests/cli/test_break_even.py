"""From which share on a router saves: against arithmetic by hand."""

from __future__ import annotations

from steer_decode.core.experts import Experts
from steer_decode.core.shape import ModelShape
from steer_decode.fitting.ledger import Ledger
from steer_decode.preflight import break_even


def shape(body: int, experts: tuple[Experts, ...] = ()) -> ModelShape:
    """A model that is its matrices and nothing else, of a byte a weight."""
    active = body + sum(e.active for e in experts)
    sizes = {"parameters": active, "active": active, "body": active, "head": 0}
    sizes |= {"dense_bytes": body, "held_bytes": body, "query_width": 0, "kv_width": 0}
    return ModelShape(**sizes, windows=(None,), weight_bytes=1, activations=1, experts=experts)


class TestBreakEven:
    """The formulas against the books of answers that are written out."""

    N = 200

    def run(self, models: dict[str, ModelShape], writers: str) -> tuple[float, float, float]:
        """Papers' FLOPs, FLOPs processed and bytes of an answer whose writers are known."""
        books = {"S": Ledger(models["S"]), "L": Ledger(models["L"])}
        for place, writer in enumerate(writers, start=1):  # behind a prompt of one token
            books[writer].write(place, 1)
        kinds = ("flops_paper", "flops", "bytes_read")
        return tuple(sum(getattr(b, kind) for b in books.values()) for kind in kinds)  # type: ignore[return-value]

    def test_of_dense_models(self) -> None:
        models = {"S": shape(1000), "L": shape(4000)}
        papers, processed, of_bytes = break_even(models["S"], models["L"], 0)
        assert (papers.ratio, processed.ratio, of_bytes.ratio) == (0.25, 0.25, 0.25)
        assert (papers.share, processed.share, of_bytes.share) == (1, 0.75, 1)
        alone = self.run(models, "L" * self.N)
        # Papers and bytes: any token of the small model saves, wherever it stands.
        once = self.run(models, "L" * (self.N // 2) + "S" + "L" * (self.N // 2 - 1))
        assert once[0] < alone[0]
        assert once[2] < alone[2] + 1000  # the small model reads the text before in one pass
        # Processed: the place of the large model's last token decides.
        for place, saves in ((0.7, True), (0.8, False)):
            last = int(place * self.N)
            for head in ("S" * (last - 1), "L" * (last - 1)):
                costs = self.run(models, head + "L" + "S" * (self.N - last))
                assert (costs[1] < alone[1]) == saves

    def test_of_a_large_mixture_of_experts(self) -> None:
        models = {"S": shape(2000), "L": shape(1000, (Experts(64, 2, 1500, 1500.0),))}
        _, _, of_bytes = break_even(models["S"], models["L"], 0)
        assert of_bytes.ratio == 0.5
        assert of_bytes.hand_over is not None
        assert of_bytes.draft is not None
        assert 1 < of_bytes.hand_over < of_bytes.draft
        for run, saves in ((of_bytes.hand_over, True), (of_bytes.hand_over - 1, False)):
            writers = "L" + ("S" * run + "L") * 20
            spent = self.run(models, writers)[2]
            assert (spent < self.run(models, "L" * len(writers))[2]) == saves
        large = models["L"].bytes_read
        for length, saves in ((of_bytes.draft, True), (of_bytes.draft - 1, False)):
            read = large(0, tokens=length) + length * models["S"].bytes_read(0)
            assert (read < length * large(0)) == saves

    def test_a_small_model_that_is_no_smaller_saves_nothing(self) -> None:
        costs = break_even(shape(4000), shape(4000), 0)
        assert [cost.share for cost in costs] == [0, 0, 0]
        assert [cost.draft for cost in costs] == [None] * 3
