"""The gate's rules, one module a concern. Pure; each yields `RuleOutcome`s, and passes on evidence only."""
