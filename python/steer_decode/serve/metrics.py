"""What a server counts, in Prometheus' format.

Names are those of vLLM where the meaning is the same, so that its dashboards read them; what is
ours begins with ``steer_``.
"""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ..core.transcript import WRITERS, Writer
from .tickets import Ended, Ticket

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120)
_GAPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)
_POSTERIORS = tuple(i / 10 for i in range(11))


class Metrics:
    """The counters of one server, in their own registry.

    Args:
        model: the label ``model_name``, as vLLM has it.
        capacity: bytes that the keys and values of all rows may take; 0 where it is not known.
    """

    def __init__(self, model: str = "steer", capacity: int = 0) -> None:
        self.registry = CollectorRegistry()
        self._model, self._capacity = model, capacity
        gauge, counter, histogram = self._gauge, self._counter, self._histogram
        self._rows = gauge("vllm:num_requests_running", "Answers that are being written.")
        self._queue = gauge("vllm:num_requests_waiting", "Requests that wait for a row.")
        self._usage = gauge("vllm:kv_cache_usage_perc", "Part of the KV memory held, 0 to 1.")
        self._held = gauge("steer_held_bytes", "Bytes of keys and values that both caches hold.")
        self._prompt = counter("vllm:prompt_tokens", "Tokens of prompts.")
        self._generated = counter("vllm:generation_tokens", "Tokens of answers.")
        self._success = counter(
            "vllm:request_success", "Answers that have ended.", "finished_reason"
        )
        self._first = histogram("vllm:time_to_first_token_seconds", "To the first token.", _SECONDS)
        self._gap = histogram("vllm:inter_token_latency_seconds", "Between tokens.", _GAPS)
        self._whole = histogram("vllm:e2e_request_latency_seconds", "Of whole answers.", _SECONDS)
        self._ended = counter("steer_requests", "Requests by how they have ended.", "how")
        self._written = counter("steer_tokens_written", "Tokens written, by model.", "writer")
        self._discarded = counter("steer_tokens_discarded", "Taken back again, by model.", "writer")
        self._processed = counter("steer_tokens_processed", "Tokens read, by model.", "writer")
        self._spared = counter(
            "steer_prefix_tokens_spared", "Prompt tokens not read again, by model.", "writer"
        )
        self._handed = counter("steer_hand_overs", "Changes of the writer.")
        self._prefilled = counter("steer_hand_over_tokens", "Tokens read at hand-overs.")
        self._drafted = counter("steer_draft_tokens", "Tokens drafted for the large model.")
        self._accepted = counter("steer_accepted_tokens", "Drafted tokens that stayed.")
        self._flops = counter("steer_flops_processed", "FLOPs processed, by model.", "writer")
        self._posterior = histogram(
            "steer_step_confidence", "Posterior of steps that were judged by one.", _POSTERIORS
        )

    def admitted(self, ticket: Ticket, reused: dict[Writer, int]) -> None:
        """A ticket has begun."""
        self._prompt.inc(len(ticket.request.ids))
        for writer in WRITERS:
            self._spared.labels(self._model, writer).inc(reused[writer])

    def answered(self, ticket: Ticket, ended: Ended) -> None:
        """A ticket has ended by an answer."""
        output, cost = ended.output, ended.output.cost
        self.ended("answered")
        self._success.labels(self._model, finish_reason(ended.reason)).inc()
        self._generated.inc(ended.tokens)
        self._whole.observe(time.monotonic() - ticket.request.asked)
        for writer, usage in (("small", cost.small), ("large", cost.large)):
            self._written.labels(self._model, writer).inc(usage.written)
            self._discarded.labels(self._model, writer).inc(usage.discarded)
            self._processed.labels(self._model, writer).inc(usage.processed)
            self._flops.labels(self._model, writer).inc(usage.flops)
        self._handed.inc(cost.hand_overs)
        for step in output.trace.steps:
            self._prefilled.inc(step.prefilled + step.probed)
            if step.posterior is not None:
                self._posterior.observe(step.posterior)
            for drafted, accepted in step.drafts:
                self._drafted.inc(drafted)
                self._accepted.inc(accepted)

    def ended(self, how: str) -> None:
        """A request has ended: "answered", "cancelled", "error" or "refused"."""
        self._ended.labels(self._model, how).inc()

    def sent(self, seconds: float, first: bool) -> None:
        """Text went out.

        So many seconds after the request, or after the text before it.
        """
        (self._first if first else self._gap).observe(seconds)

    def now(self, rows: int, queue: int, held: int) -> None:
        """What runs, waits and is held."""
        self._rows.set(rows)
        self._queue.set(queue)
        self._held.set(held)
        self._usage.set(held / self._capacity if self._capacity else 0.0)

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, ["model_name"], registry=self.registry).labels(self._model)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        made = Counter(name, text, ["model_name", *labels], registry=self.registry)
        return made if labels else made.labels(self._model)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        made = Histogram(name, text, ["model_name"], registry=self.registry, buckets=buckets)
        return made.labels(self._model)


def finish_reason(reason: str) -> str:
    """OpenAI's word for why an answer has ended."""
    return "stop" if reason in ("eos", "stop") else "length"
