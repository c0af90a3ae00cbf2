"""XLA: captured torch graphs as JAX functions.

JAX is imported below this folder (and by NumPyro's engine) and nowhere else. What has to be set
before its first use is set here.
"""

import os

# JAX would take three quarters of a GPU's memory at its first use
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
