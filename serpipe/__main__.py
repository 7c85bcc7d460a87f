"""``python -m serpipe``."""

import sys

from serpipe.cli import main

sys.exit(main())
