"""The loop: two models, one text, many answers together.

Here it is said whose turn it is, what is kept of a step, and how answers advance together.
"""
