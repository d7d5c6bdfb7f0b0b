"""Tier 1: the booking machine alone, driven hard; no actor, no log, no task.

- ``model``: a second booking machine, slow and obviously right, to compare with;
- ``checks``: what is asked of the machine after every input, and at the end;
- ``till``: a payment provider in a few dicts, with its own ledger;
- ``scenarios``: what customers do, by name;
- ``volume``: the runner: one scenario, one seed, so many inputs, one digest.
"""
