"""The No-U-Turn Sampler, on NumPyro's or Pyro's kernel."""
