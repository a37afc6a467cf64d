"""The stages of `make gpu-check` (../gpu_check.py) and what runs them.

machine   the card, and what this Python lacks; no torch in this process
stages    which stages there are: commands, time limits, outputs
runner    runs them one after another, each under its limit, and writes down how it went
files     files written whole, and the header that every JSON file has

Each of the others is a stage of its own, `python -m gpu.NAME --device cuda --out FILE`, and with
`--device cpu` a rehearsal of it: the same code on small inputs, marked as such in what it writes.

build     the extensions, in place, for the card that is there
smoke     every op against its definition, and a hundred replays over overwritten outputs
measure   every op and its peers by three clocks (table: as Markdown; empty: a kernel for a floor)
profiled  one call of every op under Nsight Compute
ahead     tokens a second of the decode loop, a model of random weights
sanitized every kernel under compute-sanitizer
subjects  the ops with inputs and definitions, for smoke, profiled and sanitized
"""
