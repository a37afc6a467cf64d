"""The words that everybody speaks; nothing here runs a model.

Transcripts, steps, signals and costs.
"""
