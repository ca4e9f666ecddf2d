"""Triggers: they poll, they never download."""
