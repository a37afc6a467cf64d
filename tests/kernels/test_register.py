"""Operators are entered once: one schema, whichever side brings it, and all that torch asks for."""

from __future__ import annotations

import pytest
import torch
from support.backends import needs_extension

import steer_kernels
from steer_kernels.ops import _register
from steer_kernels.ops._register import SCHEMAS
from steer_kernels.ops._sampling import Cuts, takes_cuts

IN_PLACE = {"kv_append_": 2, "step_update_": 6}


def test_every_operator_is_registered_by_the_helper() -> None:
    public = {name for name in steer_kernels.__all__ if name in dir(torch.ops.steer_kernels)}
    assert public == set(SCHEMAS)
    assert len(SCHEMAS) == 9


@needs_extension
@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_the_extension_has_the_same_schema(name: str) -> None:
    given = getattr(torch.ops.steer_kernels, name).default._schema
    assert torch._C.parse_schema(f"steer_kernels::{name}{SCHEMAS[name]}") == given


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_writes_are_counted_for_what_the_schema_says_is_written(name: str) -> None:
    schema = torch._C.parse_schema(f"steer_kernels::{name}{SCHEMAS[name]}")
    written = [a.alias_info is not None and a.alias_info.is_write for a in schema.arguments]
    count = IN_PLACE.get(name, 0)
    assert written == [True] * count + [False] * (len(written) - count)
    counted = torch._C._dispatch_has_kernel_for_dispatch_key(
        f"steer_kernels::{name}", "ADInplaceOrView"
    )
    assert counted == (count > 0)


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_traced_without_values(name: str) -> None:
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"steer_kernels::{name}", "Meta")


@pytest.mark.parametrize(
    ("given", "keywords", "expected"),
    [
        ((), {}, ((1.0, 0, 1.0, 0.0), 8, None)),
        ((0.5, 3, 0.9, 0.1, 4, 100), {}, ((0.5, 3, 0.9, 0.1), 4, 100)),
        ((0.5,), {"min_p": 0.2, "k": 2}, ((0.5, 0, 1.0, 0.2), 2, None)),
    ],
)
def test_cuts_travel_as_one_value(given: tuple, keywords: dict, expected: tuple) -> None:
    """Whichever defaults torch drops from the call."""
    seen = takes_cuts(lambda logits, uniform, *rest: rest)(None, None, *given, **keywords)
    assert seen == expected
    assert isinstance(seen[0], Cuts)


def test_cuts_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Cuts(1.0, 0, 1.0, 0.0).top_k = 5  # type: ignore[misc]


@needs_extension
def test_an_extension_from_before_the_operator_leaves_it_to_the_reference() -> None:
    """The source tree moves on, and what was built in it does not."""
    with pytest.warns(RuntimeWarning, match="built before of_tomorrow was.*pip install -e"):
        op = _register.register(
            "of_tomorrow", "(Tensor x) -> Tensor", cpu=torch.neg, fake=torch.empty_like
        )
    del SCHEMAS["of_tomorrow"]
    assert torch.equal(op(torch.ones(2)), -torch.ones(2))
