"""Tests of the example machines."""
