"""Helpers that know nothing of decoding: text for people, files, documents and what is in them."""
