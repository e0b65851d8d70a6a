"""`python -m docs.continual` writes docs/continual.md; see page.py."""

import sys

from docs.continual.page import main

main(sys.argv[1:])
