"""Models that vLLM serves, here or behind a URL.

``engine`` keeps the contract of ``engines/base.py``; ``calls`` is what passes between it and what
carries requests: ``servers`` over HTTP, ``local`` to an engine in this process. ``connect`` says
beforehand what a server cannot do. The ``gate`` files are what may run inside a server.
"""
