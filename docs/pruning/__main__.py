"""`python -m docs.pruning` writes docs/pruning.md; see page.py."""

import sys

from docs.pruning.page import main

main(sys.argv[1:])
