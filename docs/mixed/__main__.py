"""`python -m docs.mixed` writes docs/mixed_precision.md; see page.py."""

import sys

from docs.mixed.page import main

main(sys.argv[1:])
