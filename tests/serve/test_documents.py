"""What docs/serving.md and its dashboard say is so: commands, examples, fields, metrics."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx2
import pytest
import typer
from steer_decode.cli import app
from steer_decode.serve.metrics import Metrics
from steer_decode.serve.requests import _REFUSED, SteerFields
from support.served import Served

DOCS = Path(__file__).parents[2] / "docs"
if not DOCS.exists():
    pytest.skip("docs/ is not here", allow_module_level=True)
PAGE = (DOCS / "serving.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:8000"


def section(heading: str) -> str:
    """The text below a heading, to the next one of its level or above."""
    rest = PAGE[PAGE.index(f"\n{heading}\n") + len(heading) + 2 :]
    return re.split(rf"\n#{{1,{len(heading.split()[0])}}} ", rest)[0]


def exported() -> dict[str, str]:
    """Of each metric its type, by the name that Prometheus has for it."""
    found = dict(re.findall(r"^# TYPE (\S+) (\w+)$", Metrics().text().decode(), re.M))
    return {name: kind for name, kind in found.items() if not name.endswith("_created")}


def series() -> set[str]:
    """The names that can be asked for."""
    names = set()
    for name, kind in exported().items():
        ends = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        names |= {name + end for end in ends}
    return names


def test_the_dashboard_asks_for_what_there_is_and_for_all_of_it() -> None:
    board = json.loads((DOCS / "serving-dashboard.json").read_text(encoding="utf-8"))
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    asked = set()
    for panel in panels:
        assert panel["description"]
        for target in panel["targets"]:
            names = set(re.findall(r"\b(?:vllm:|steer_)\w+", target["expr"]))
            assert names, target["expr"]
            assert target["expr"].count("(") == target["expr"].count(")")
            asked |= names
    assert asked <= series()
    assert {re.sub("_bucket$", "", name) for name in asked} == set(exported())
    # No two lie over each other.
    places = {(p["gridPos"]["x"], p["gridPos"]["y"]) for p in board["panels"]}
    assert len(places) == len(board["panels"]) == len({p["id"] for p in board["panels"]})


def test_every_metric_is_explained() -> None:
    named = set(re.findall(r"^\| `((?:vllm:|steer_)\w+)", section("## Metrics"), re.M))
    assert named == set(exported())


def test_options_are_those_of_the_command() -> None:
    command = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    there = {name for parameter in command.params for name in parameter.opts}
    page = re.sub(r"^ +steer bench .*$", "", PAGE, flags=re.M)  # a command with its own options
    shown = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page.replace("curl -N", "")))
    assert shown <= there
    limits = section("## Limits")
    assert set(re.findall(r"^\| `(--[a-z-]+)`", limits, re.M)) <= there
    defaults = {p.opts[0]: p.default for p in command.params}
    for name, value in re.findall(r"^\| `(--(?:max-rows|max-queue|timeout|keep|sh\S+))`.*\| (\d+) \|$", limits, re.M):  # fmt: skip # noqa: E501
        assert defaults[name] == float(value), name


def test_fields_are_those_of_a_request() -> None:
    named = re.findall(r"^\| `(\w+)` \|", section("## Routing a request"), re.M)
    assert named == list(SteerFields.model_fields)
    refused = set(re.findall(r"`(\w+)`", section("### Refused by name"))) - {"param"}
    assert refused <= set(_REFUSED)


def test_what_curl_sends_is_answered(served: Served) -> None:
    shown = re.findall(rf"curl (?:-N )?{ADDRESS}(\S+) .*?\n? *-d '(.*?)'", PAGE)
    assert [path for path, _ in shown] == ["/v1/chat/completions", "/v1/completions"]
    for path, body in shown:
        found = served.post(path, content=body, headers={"Content-Type": "application/json"})
        assert found.status_code == 200, found.text
    for path in re.findall(r"GET (/[\w/]*)`", section("## Asking")):
        assert httpx2.get(f"{served.url}{path}").status_code == 200


def test_the_client_s_example_runs(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(block.replace(ADDRESS, served.url), "docs/serving.md", "exec"), names)
    assert names["answer"].usage.steer["router"].startswith("first-token:threshold=0.4")
    said = capsys.readouterr().out
    assert "answer 8" in said
    assert "flops_paper" in said
