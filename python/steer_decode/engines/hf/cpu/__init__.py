"""Faster layers on a CPU, for the time of a pass; ``STEER_DECODE_CPU=off`` turns them off."""
