"""The server on Ray Serve, before pools of engines.

``engine`` is a replica of one model, ``front`` the server, ``carrier`` brings calls from the one to
the other, and ``build`` says how many there are of each. Ray keeps a conversation at one replica of
either model, whose prefix cache then has what was read of it.
"""
