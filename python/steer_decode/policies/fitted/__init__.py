"""Numbers that a router reads from a file.

With them the pair that they were fitted for.
"""
