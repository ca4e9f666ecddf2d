"""One module a stage. A stage is a function of (spec, references, clock, seed) and ports (invariant 2)."""
