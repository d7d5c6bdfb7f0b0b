"""Holdfast: an appointment booking service that never double-books.

The log decides: one booking actor owns a book and decides the inputs of a Redis stream in order,
by a pure, deterministic state machine. Start reading at ``holdfast.machine``, then
``holdfast.actors.booking``.
"""

__version__ = "0.1.0"
