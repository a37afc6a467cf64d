"""Whether somebody looks at operators as they run."""

from __future__ import annotations

import torch

# How many dispatch modes do, FlopCounterMode for one, which knows only torch's own operators.
watched = torch._C._len_torch_dispatch_stack
