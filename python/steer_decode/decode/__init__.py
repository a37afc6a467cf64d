"""The loop: whose turn it is, what is kept, and how answers advance together."""
