"""``python -m scratchvae`` is the command ``scratchvae``."""

import sys

from scratchvae.cli import main

sys.exit(main())
