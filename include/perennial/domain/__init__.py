"""Pure: references, windows, metrics, statistics, the gate. No I/O, no clock, no randomness without a seed."""
