"""The second example: how far has a patient's diabetes progressed? Other data, another estimator, a regression."""
