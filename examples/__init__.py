"""Programs that use BitLeak from Python, each to be run by itself.

Opacus installs a package of this name, which Python would prefer to a folder without this file.
"""
