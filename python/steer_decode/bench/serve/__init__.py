"""``steer bench serve``: a server under load."""
