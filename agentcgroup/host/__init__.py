"""The process that shares one host's memory among the sessions on it.

The first governor starts it, and it ends a moment after the last session.  It decides (``schedule``); the
governors tell it what their calls hold and want, and carry out what it answers.  Whoever of them dies, the
others take back what it did: a governor that loses the host process lets all its calls go on, and the host process lifts every
brake and freeze of a session whose governor is gone.
"""
