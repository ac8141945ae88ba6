"""vlf-edge, which has a minute to finish after a signal: what it does then is tested on machines that others use too,
where the second that it has may be over before it runs. test_signals.py holds that second."""

from __future__ import annotations

import sys

from vlf_edge import signals
from vlf_edge.__main__ import main

VLF_EDGE = (sys.executable, __file__)

if __name__ == "__main__":
    signals._GRACE_S = 60.0
    main()
