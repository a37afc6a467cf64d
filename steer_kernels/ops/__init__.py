"""One module per operator, and what operators share.

Each has the operator's docstring, its checks, its dispatch and its fake implementation.
"""
