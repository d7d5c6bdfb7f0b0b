"""Tests of tier 1: the booking machine alone."""
