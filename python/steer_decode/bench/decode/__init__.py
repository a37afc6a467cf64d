"""What the machinery of routed decoding costs, against bare forward passes."""
