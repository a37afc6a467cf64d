"""Numbers that a router reads from a file, with the pair that they were fitted for."""
