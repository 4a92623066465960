"""The command ``pytest-vmports``."""
