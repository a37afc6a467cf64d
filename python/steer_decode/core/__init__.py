"""The words that everybody speaks: transcripts, steps, signals, costs. Runs no model."""
