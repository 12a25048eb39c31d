"""Nightcrew: background jobs that are not lost."""
