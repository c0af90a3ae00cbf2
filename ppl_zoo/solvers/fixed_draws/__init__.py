"""Sample-average approximation: variational inference with fixed draws."""
