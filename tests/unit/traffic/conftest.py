"""Fuzzing without deadlines: the machine may be busy with other tests."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("squall", deadline=None)
settings.load_profile("squall")
