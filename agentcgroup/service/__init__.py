"""The daemon: one for a host, with a governor for each labelled container; it is the host process of all other sessions, too."""
