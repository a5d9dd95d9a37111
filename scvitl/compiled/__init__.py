"""Loops for the CPU that torch would take many passes for, compiled by numba: arithmetic, and torch's threads to share it."""

from __future__ import annotations
