"""`python -m docs.federated` writes docs/federated.md; see page.py."""

import sys

from docs.federated.page import main

main(sys.argv[1:])
