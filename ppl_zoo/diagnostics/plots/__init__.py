"""Plots of fits, posteriors, samples and checks."""
