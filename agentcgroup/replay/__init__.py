"""Recorded agent runs as load: real processes that do again what was measured, and a modelled host in virtual time."""
