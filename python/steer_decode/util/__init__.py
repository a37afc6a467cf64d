"""Helpers that know nothing of models, of decoding or of routers."""
