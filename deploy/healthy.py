"""Whether the run in this container is healthy: for HEALTHCHECK. Without the page (--serve) on port 8000 it is not.

VLF_EDGE_TOKEN_FILE names the file of --serve-token-file, where there is one.
"""

import os
import sys
import urllib.error
import urllib.request

try:
    headers = {}
    if token_file := os.environ.get("VLF_EDGE_TOKEN_FILE"):
        with open(token_file) as file:
            headers["Authorization"] = f"Bearer {file.read().strip()}"
    urllib.request.urlopen(urllib.request.Request("http://127.0.0.1:8000/healthz", headers=headers), timeout=4)
except urllib.error.HTTPError as error:
    sys.exit(error.read(500).decode(errors="replace"))
except OSError as error:
    sys.exit(f"no answer: {error}")
