"""The simulated world: the production actors, run from one seed through every fault we know.

A failure of a distributed system is seldom seen twice. Here it is, because nothing in a run is left
to chance: time, order, faults and workload are all derived from one integer.

- ``draws``: every choice, from the seed, on a tape;
- ``clock``: time moves only when nobody can run, straight to what happens next;
- ``scheduler``: which task runs next is a choice like any other;
- ``leaks``: what would make two equal runs differ raises where it happens.

On these stand a server, a payment provider and a mailer that behave as badly as real ones; the
actors do not know the difference: ``holdfast.bootstrap`` hands them other ports, and nothing else
changes.
"""
