"""``steer bench passes``: how long a pass takes, by its rows and tokens."""
