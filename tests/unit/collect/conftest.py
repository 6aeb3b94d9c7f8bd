"""Fuzzing without deadlines: nothing in these tests is judged by a clock."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("squall", deadline=None)
settings.load_profile("squall")
