"""Answers, traces and checks for the eye, on a terminal."""
