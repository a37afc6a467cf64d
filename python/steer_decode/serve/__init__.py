"""The server: routed answers behind the interface of OpenAI.

It needs the extra ``serve``. A request becomes a ticket for each choice (`tickets.py`); one thread
answers all of them in a pool (`worker.py`); the application (`app.py`) is what clients speak to.
"""
