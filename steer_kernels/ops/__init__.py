"""One module per operator: its docstring, its checks, its dispatch and its fake implementation."""
