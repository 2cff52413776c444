"""``python -m agentcgroup``."""

import sys

from agentcgroup.cli import main

sys.exit(main())
