"""Early-stopped optimisation of a deep image prior."""
