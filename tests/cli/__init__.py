"""Tests of the command line, most of them by running it."""
