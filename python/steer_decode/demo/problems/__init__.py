"""Procedural reasoning problems in three domains."""
