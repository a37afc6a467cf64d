"""The side door: ``small.generate(**inputs, custom_generate=router)``."""
