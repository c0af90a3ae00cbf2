"""Image restoration: half-quadratic splitting, tilings, split Gibbs, deep image prior."""
