"""Records of answers: what both models made of every token.

``record`` says what is kept, ``schema`` and ``file`` how it stands on disk, ``views`` makes it, and
``replayed`` scores routers over it: ``speculation`` on the large model's texts, ``scores`` and
``signals`` on the small one's. ``vllm`` reads what a server has logged. The format is in
docs/records.md.
"""

NAME = "records.jsonl.gz"  # of a file of records in a folder
