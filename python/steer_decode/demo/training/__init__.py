"""How the demo pair was trained, from tokenizer to weights."""
