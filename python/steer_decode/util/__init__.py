"""Helpers that know nothing of decoding.

Text for people, files, documents and what is in them.
"""
