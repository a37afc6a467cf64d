"""``steer bench serve``: a server under load, beside the router that it serves."""
