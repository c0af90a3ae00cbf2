"""``python -m ppl_zoo`` is ``ppl-zoo``."""

import sys

from ppl_zoo.cli import main

if __name__ == "__main__":
    sys.exit(main())
