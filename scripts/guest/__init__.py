"""The virtual agent host: Debian 13 with systemd and Docker, on kernels we may break.

``image`` makes the root file system and fetches kernels, ``boot`` runs a command in it, ``packages``
asks the host's package manager for what both need.  Standard library only: this runs before
anything is installed.
"""
