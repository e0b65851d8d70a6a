"""`python -m docs.study` writes the study's page; see page.py."""

import sys

from docs.study.page import main

main(sys.argv[1:])
