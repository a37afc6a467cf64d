"""How long a pass takes, by its rows and tokens."""
