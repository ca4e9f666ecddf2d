"""`python -m perennial.cli`."""

import sys

from perennial.cli import main

sys.exit(main())
