"""Nightcrew on PostgreSQL beside other job systems: on one server, in one run, in turn."""
