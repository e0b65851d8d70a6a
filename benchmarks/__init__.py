"""Measurements that are run by hand.

Opacus installs a package of this name, which Python would prefer to a folder without this file.
"""
