"""Benchmarks of the kernels, and of the decoding around models."""
