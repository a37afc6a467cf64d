"""The server: routed answers behind the interface of OpenAI.

It needs the extra ``serve``. The application (`app.py`) is what clients speak to. A request becomes
a ticket for each choice (`tickets.py`), which a worker takes (`worker.py`), and an engine answers
all of them in a pool (`engine_core.py`), in a process of its own (`engine_process.py`).
"""
