"""Two models and their tokenizer: loaded, checked, and asked with a prompt."""
