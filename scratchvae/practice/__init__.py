"""Exercises, bug hunts, drills, quiz and mock exam: the engine; what it asks is in `content`."""
