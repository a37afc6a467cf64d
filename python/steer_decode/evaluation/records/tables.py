"""A replay of records as Markdown, for people."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...util.text import cell, one_line, printable
from ..report.bootstrap import Interval
from .record import AnswerRecord, Records
from .replayed import Drafts, Replayed, counted, refused
from .signals import Signals, Told

_SHOWN = (1, 2, 3, 4, 6, 8, 12, 16, "auto")
_MOST = 12  # signals of each table; all of them are in the JSON


def markdown(found: Replayed) -> str:
    """Tables of what was replayed, and what was not."""
    parts = [_about(found.records), _speculation(found)]
    if found.signals is not None:
        parts.append(_signals(found.signals))
    parts += [f"{cell(text)}\n" for text in found.absent]
    parts.append(_refused())
    return "\n".join(part for part in parts if part)


def _about(records: Records) -> str:
    header = records.header
    s = header.sampling
    how = "greedy" if not s.temperature else f"temperature {s.temperature:g}"
    cuts = [f"{n} {v:g}" for n, v in (("top_k", s.top_k), ("min_p", s.min_p)) if v]
    cuts += [f"top_p {s.top_p:g}"] if s.top_p < 1 else []
    names = " and ".join(cell(header.names.get(w, w)) for w in ("small", "large"))
    lines = [
        f"### Records of {names}, {', '.join([how, *cuts])}",
        "",
        "| router | answers | tokens |",
        "|---|---:|---:|",
    ]
    for name, (answers, tokens) in counted(records).items():
        lines.append(f"| {cell(name)} | {answers} | {tokens:,} |")
    pair = f"pair {header.pair}" if header.pair else "a pair without a fingerprint"
    return "\n".join([*lines, "", f"Of {pair}, from {header.source}.", ""])


def _speculation(found: Replayed) -> str:
    if found.agreement is None:
        return ""
    value, low, high = (100 * x for x in found.agreement)
    text = (
        f"On the large model's own texts the small model's likeliest token stands at {value:.1f} % "
        f"of the places ({low:.1f} to {high:.1f}), in runs of {found.run:.1f} tokens; the large "
        f"model's own at {100 * found.own:.1f} %."
    )
    if not found.drafts:
        return f"{text}\n"
    sampled = found.records.header.sampling.temperature > 0
    if sampled:
        text += f" A draft stays with probability {found.overlap:.3f} on average over these tokens."
    costs = list(found.drafts[0].costs)
    names = {"flops_paper": "FLOPs, papers", "flops_processed": "processed", "bytes_read": "bytes"}
    lines = [
        text,
        "",
        "| lossless speculation | tokens a pass | draft 1 stays | 2 | 4 | 8 |"
        + "".join(f" {names[c]} |" for c in costs),
        "|---|---:|---:|---:|---:|---:|" + "---:|" * len(costs),
    ]
    lines += [_row(one) for one in found.drafts if one.k in _SHOWN]
    lines += [
        "",
        "Tokens a pass of the large model with 95 % intervals over problems; drafts that stay, of "
        "those looked at, by position in a pass"
        + ("; costs beside the large model alone, one answer at a time." if costs else ".")
        + (" Expected over the draws." if sampled else ""),
        "",
    ]
    return "\n".join(lines)


def _row(one: Drafts) -> str:
    stays = [
        f"{100 * one.accepted[at - 1]:.1f} %" if at <= len(one.accepted) else ""
        for at in (1, 2, 4, 8)
    ]
    cells = [f"speculative:k={one.k}", _between(one.tokens_per_pass, "{:.2f}"), *stays]
    cells += [f"{x.value:.2f}" for x in one.costs.values()]
    return "| " + " | ".join(cells) + " |"


def _signals(found: Signals) -> str:
    lines = [
        *_table("what tells right answers of the small model from wrong ones", found.answers),
        *_table("what tells its right steps from wrong ones", found.steps),
    ]
    if found.answers:
        lines += [
            "AUROC with 95 % intervals over problems. A router that hands over inside an answer "
            "leaves an answer to the small model if its number is above the threshold; what "
            "becomes of the others needs a run. Half stay at: the threshold, in the router's own "
            "unit, that leaves half of the answers. Half sent: accuracy where the less sure half "
            "of the questions goes to the large model, whose answers are recorded too. A threshold "
            "chosen here is chosen on these problems: choose it on others.",
            "",
        ]
    return "\n".join(lines)


def _table(title: str, told: Sequence[Told]) -> list[str]:
    if not told:
        return []
    first = told[0]
    sent = any(one.half_sent for one in told)
    cut = any(one.thresholds for one in told)
    more = [*(["half stay at"] if cut else []), *(["half sent, right %"] if sent else [])]
    lines = [
        f"| {title} ({first.right} right, {first.wrong} wrong) | AUROC | surer half right % | "
        "the rest |" + "".join(f" {name} |" for name in more),
        "|---|---:|---:|---:|" + "---:|" * len(more),
    ]
    for one in told[:_MOST]:
        name = f"`{one.name}`: {one.what}" if one.what else one.name
        cells = [name, _between(one.auroc, "{:.3f}"), *(_percent(x) for x in one.surest)]
        if cut:
            half = one.thresholds[len(one.thresholds) // 2] if one.thresholds else None
            cells.append(f"{half.threshold:.4g}" if half else "")
        if sent:
            cells.append(_between(one.half_sent, "{:.1f}", 100) if one.half_sent else "")
        lines.append("| " + " | ".join(cells) + " |")
    return [*lines, ""]


def _between(found: Interval, form: str, scale: float = 1.0) -> str:
    if not math.isfinite(found.value):
        return "none"
    value, low, high = (form.format(scale * x) for x in found)
    return f"{value} ({low} to {high})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}" if math.isfinite(share) else "none"


def _refused() -> str:
    by_reason: dict[str, list[str]] = {}
    for name, reason in refused().items():
        by_reason.setdefault(reason, []).append(name)
    lines = ["Not replayed, as they need a run:", ""]
    lines += [f"- {', '.join(names)}: {reason}." for reason, names in by_reason.items()]
    return "\n".join([*lines, ""])


def contents(records: Records, size: int) -> str:
    """What a file of records holds.

    Args:
        records: of it.
        size: its bytes; 0 where that is not known.
    """
    tokens = sum(map(len, records.answers))
    judged = [a.correct for a in records.answers if a.correct is not None]
    lines = [_about(records)]
    if judged:
        lines.append(f"{sum(judged)} of {len(judged)} answers that were judged are right.")
    if size and tokens:
        lines.append(f"{size:,} bytes, {size / tokens:.0f} a token.")
    view = next(iter(records.answers[0].views.values())) if records.answers else None
    if view is not None and (view.entropy is None or view.max_logit is None):
        lines.append("Entropy and logits are absent: the source does not give them.")
    return "\n".join(lines) + "\n"


def one_answer(answer: AnswerRecord) -> str:
    """One answer, its text as it was written."""
    verdict = {True: "right", False: "wrong", None: "not judged"}[answer.correct]
    title = f"{answer.domain}:{answer.problem}, {answer.router}, seed {answer.seed}, {verdict}"
    return f"{one_line(title)}\n{printable(answer.text)}\n"
