"""What routed decoding costs beside the models themselves: `steer bench decode` as a script.

python benchmarks/bench_decode.py --quick         every option of the command
steer bench decode --json benchmarks/results/cpu/decode.json
"""

from __future__ import annotations

import sys

from steer_decode.cli import app

if __name__ == "__main__":
    app(["bench", "decode", *sys.argv[1:]], prog_name="steer")
