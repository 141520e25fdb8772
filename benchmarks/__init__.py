"""Measurements against rivals, never part of the tests."""
