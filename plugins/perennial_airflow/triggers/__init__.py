"""Triggers: they look and wait. Whatever blocks runs in a thread."""
