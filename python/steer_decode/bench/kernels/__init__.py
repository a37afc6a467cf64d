"""Each kernel against its peers, in one run.

plan      which cases; imports no torch, so that bad input is refused at once
workload  the inputs of a case, our call, and the peers' calls
peers     libraries that may be installed: FlashInfer, vLLM, Liger
timer     contenders in turns; median microseconds
measure   rows out of cases
report    rows as tables, Markdown and JSON
plot      rows as a picture
"""
