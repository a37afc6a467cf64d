"""How a model writes: one folder per engine.

All of them keep the contract of ``base``.
"""
