"""Requests as spans of OpenTelemetry.

An answer, its steps, and its hand-overs as events."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from ..errors import SteerError
from .tickets import Ended, Ticket


class Spans:
    """Sends a span for each answer and each step.

    Args:
        endpoint: of a collector that takes OTLP over HTTP, as ``http://localhost:4318``.

    Raises:
        SteerError: the packages of OpenTelemetry are not there.
    """

    def __init__(self, endpoint: str) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise SteerError(
                "--otlp-endpoint needs OpenTelemetry: "
                "pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http"
            ) from error
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
        self._provider = TracerProvider(resource=Resource.create({"service.name": "steer"}))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("steer.serve")

    def tell(self, request_id: str, answers: Sequence[tuple[Ticket, Ended]]) -> None:
        """Send the spans of a request that has ended."""
        now = time.time_ns(), time.monotonic()
        for ticket, ended in answers:
            self._answer(request_id, ticket, ended, now)

    def close(self) -> None:
        """Send what has not gone out yet."""
        self._provider.shutdown()

    def _answer(
        self, request_id: str, ticket: Ticket, ended: Ended, now: tuple[int, float]
    ) -> None:
        from opentelemetry.trace import set_span_in_context

        def at(moment: float) -> int:
            return now[0] - int((now[1] - moment) * 1e9)

        cost, trace = ended.output.cost, ended.output.trace
        told: dict[str, Any] = {
            "steer.request_id": request_id,
            "steer.router": trace.policy,
            "steer.hand_overs": cost.hand_overs,
            "steer.discarded_tokens": cost.discarded_tokens,
            "steer.flops_processed": cost.flops_processed,
            "gen_ai.usage.input_tokens": len(ticket.request.ids),
            "gen_ai.usage.output_tokens": ended.tokens,
            "gen_ai.response.finish_reasons": [ended.reason],
        }
        span = self._tracer.start_span(
            "answer", start_time=at(ticket.request.asked), attributes=told
        )
        span.add_event("admitted", timestamp=at(ticket.begun))
        context, moment, before = set_span_in_context(span), ticket.begun, ""
        for step in trace.steps:
            for writer in step.writers[step.inherited :] or [step.writer]:
                if before not in ("", writer):
                    told = {"to": writer, "prefilled": step.prefilled}
                    span.add_event("hand-over", told, timestamp=at(moment))
                before = writer
            child = self._tracer.start_span(
                f"step {step.index}",
                context,
                start_time=at(moment),
                attributes={
                    "steer.writer": step.writer,
                    "steer.tokens": len(step.token_ids),
                    "steer.discarded": step.discarded,
                },
            )
            moment += step.milliseconds / 1e3
            child.end(at(moment))
        span.end(now[0])
