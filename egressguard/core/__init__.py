"""Decisions. Standard library only: no I/O, no clock, no logging; `now_s` is an argument."""
