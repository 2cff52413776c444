"""A session from start to end: its place in the cgroup tree, its tool calls, its processes.

``front`` is the process that the user started; ``engine`` the one that governs; each survives the
other's death.  ``places`` and ``layout`` know where things are.
"""
