"""``steer info``: what is installed and what it runs on."""

from __future__ import annotations

from . import say


def info() -> None:
    """Print versions, the build of the kernels, and the devices.

    Example:

    - `steer info`
    """
    import torch
    import transformers

    import steer_kernels
    import steer_kernels.fast  # so that it is known whether its native part loads

    facts = steer_kernels.build_info()
    if not facts["reason"]:
        del facts["reason"]
    if isinstance(facts["fast"], dict):
        facts["fast"] = "native"
    lines = {f"kernels {key}": value for key, value in facts.items()}
    lines["transformers"] = transformers.__version__
    lines["threads"] = torch.get_num_threads()
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    lines["GPUs"] = ", ".join(gpus) or "none"
    width = max(map(len, lines))
    for name, value in lines.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        shown = "not built" if value is None else shown
        say.out(f"{name:{width}}  {shown}")
