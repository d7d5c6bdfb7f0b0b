"""Tests of the booking domain: no server, no clock, no chance but a seed."""
