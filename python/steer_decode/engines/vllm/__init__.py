"""Models that vLLM serves, in this process or behind a URL."""
