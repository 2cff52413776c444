"""How property tests run: without deadlines, for how fast a machine is says nothing of the program."""

from hypothesis import settings

settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")
