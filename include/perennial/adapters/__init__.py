"""The ports' real implementations. Imported lazily, by runtime.py only."""
