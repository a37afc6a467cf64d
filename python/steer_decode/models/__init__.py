"""Two models and their tokenizer: loaded, checked, prompted."""
