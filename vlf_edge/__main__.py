"""python -m vlf_edge is vlf-edge."""

import sys

from .cli import main

sys.exit(main())
