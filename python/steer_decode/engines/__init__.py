"""How a model writes: one folder per engine, behind the contract of ``base``."""
