"""What routed decoding costs, against bare forward passes."""
