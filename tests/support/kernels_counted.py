"""How many kernels a pass would launch on a GPU, counted on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from steer_kernels import layers, reference

_NO_KERNEL = ("aten::empty", "aten::new_empty")


class Counted(TorchDispatchMode):
    """Operators that write something, new or in place; views do not, nor does taking memory."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **kwargs or {})
        name = func.name()
        results = found if isinstance(found, tuple | list) else (found,)
        given = {x.untyped_storage().data_ptr() for x in args if isinstance(x, Tensor)}
        made = [r for r in results if isinstance(r, Tensor)]
        fresh = any(r.untyped_storage().data_ptr() not in given for r in made)
        if (fresh or func._schema.is_mutable) and not name.startswith(_NO_KERNEL):
            self.names.append(name)
        return found


@contextmanager
def counted() -> Iterator[list[str]]:
    """The names of all that is run; each layer in one kernel counts as one."""
    mode = Counted()

    def kernel(name: str, like: Tensor) -> Callable[..., Any]:
        definition = getattr(reference, {"rope_append": "rope_append_"}.get(name, name))

        def run(*args: Any) -> Any:
            mode.names.append(name)
            with _disable_current_modes():
                return definition(*args)

        return run

    with mock.patch.object(layers, "_kernel", kernel), mode:
        yield mode.names
