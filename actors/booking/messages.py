"""Every message of the booking service: commands and results in, outcomes, events and actions out.

This is the contract with producers in any language. An entry's ``type`` names the struct, its
``body`` is the struct as a JSON object; unknown fields are refused. Times of day are local
``HH:MM``, dates are local ``YYYY-MM-DD``, weekdays are numbered Sunday 0 to Saturday 6 (domain C2),
money is integer minor units (C30), durations are minutes of elapsed time.

The limits here are the outermost ones, of any practice; a practice's own policies are in
:class:`Policies`.
"""

from __future__ import annotations

from typing import Annotated, Literal, final

import msgspec
from msgspec import Meta

from holdfast.actors.booking import zones

# --- words ------------------------------------------------------------------------------------
# In patterns, ``$`` alone would let a line end follow; ``$(?!\n)`` means the same in Python and in
# JSON Schema.

Id = Annotated[
    str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:@-]*$(?!\n)")
]
"""An id that somebody outside chose: of a customer, a member of staff, a service."""

Ref = Annotated[str, Meta(min_length=1, max_length=64)]
"""An id of ours, derived from the log."""

Name = Annotated[str, Meta(min_length=1, max_length=200)]
OptionalId = Annotated[str, Meta(max_length=64, pattern=r"^([A-Za-z0-9][A-Za-z0-9_.:@-]*)?$(?!\n)")]
OptionalEmail = Annotated[str, Meta(max_length=254, pattern=r"^([^@\s]+@[^@\s]+)?$(?!\n)")]
OptionalDate = Annotated[str, Meta(pattern=r"^([0-9]{4}-[0-9]{2}-[0-9]{2})?$(?!\n)")]
LocalTime = Annotated[str, Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$(?!\n)")]
LocalTimeEnd = Annotated[str, Meta(pattern=r"^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$(?!\n)")]
LocalDate = Annotated[str, Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$(?!\n)")]
Weekday = Annotated[int, Meta(ge=0, le=6)]
Cents = Annotated[int, Meta(ge=0, le=100_000_000)]
Currency = Annotated[str, Meta(pattern=r"^[A-Z]{3}$(?!\n)")]
Instant = Annotated[str, Meta(min_length=16, max_length=35)]
"""RFC 3339 with an offset or ``Z``; without one it is local time in the practice's zone."""

_WEEKDAYS = ("0", "1", "2", "3", "4", "5", "6")

TimeRange = tuple[LocalTime, LocalTimeEnd]
"""Half-open, ``["09:00","12:00"]``."""

# --- the practice -----------------------------------------------------------------------------


class Service(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Something that can be booked."""

    id: Id
    name: Name
    duration_min: Annotated[int, Meta(ge=5, le=720)]
    price_cents: Cents


class Staff(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A member of staff.

    Attributes:
      hours: Own opening hours by weekday ("0" is Sunday); None where the practice's hold.
    """

    id: Id
    name: Name
    hours: dict[str, list[TimeRange]] | None = None


class Policies(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a practice decides for itself. Zero switches a limit off where it says so.

    Attributes:
      contention: ``hold``: a request holds its slot at once (domain F-201). ``first_payment_wins``:
        a request holds nothing, the first preauthorization wins, the losers' are released (S0).
      hold_s: A slot hold's time to live (F-201).
      minimum_notice_min: Least time between a request and the start, elapsed; exactly that is
        accepted (C21). Zero: any start that is not past.
      advance_days_max: Bookable if local date of start − local date of now is at most this (C1).
      cancellation_deadline_min: Latest cancellation by a customer before the start, elapsed; exactly
        that is accepted (F-070, C21).
      cooling_off_min: A customer may cancel so long after the request whatever the deadline, but
        never after the start (C20).
      holds_per_customer_max: Most unconfirmed requests of one customer at a time; zero: no limit.
      contenders_max: With ``first_payment_wins``, most unconfirmed requests for one start with one
        member of staff.
      late_authorization: Confirm a payment that succeeds after the hold expired if the slot is still
        free (F-202).
      idempotency_h: How long a key's outcome is kept and replayed.
      keep_past_days: How long an appointment that is over stays in the book.
      keep_failed_h: How long a request that came to nothing stays in the book.
      check_settle_s: How long after a call the provider's "never heard of it" is not yet believed,
        since the call may still be on its way.
    """

    contention: Literal["hold", "first_payment_wins"] = "hold"
    hold_s: Annotated[int, Meta(ge=1, le=86_400)] = 600
    minimum_notice_min: Annotated[int, Meta(ge=0, le=525_600)] = 0
    advance_days_max: Annotated[int, Meta(ge=0, le=3_660)] = 365
    cancellation_deadline_min: Annotated[int, Meta(ge=0, le=525_600)] = 1_440
    cooling_off_min: Annotated[int, Meta(ge=0, le=10_080)] = 15
    holds_per_customer_max: Annotated[int, Meta(ge=0, le=1_000)] = 3
    contenders_max: Annotated[int, Meta(ge=1, le=100_000)] = 1_024
    late_authorization: bool = True
    idempotency_h: Annotated[int, Meta(ge=24, le=8_760)] = 24
    keep_past_days: Annotated[int, Meta(ge=0, le=3_660)] = 30
    keep_failed_h: Annotated[int, Meta(ge=0, le=8_760)] = 24
    check_settle_s: Annotated[int, Meta(ge=0, le=3_600)] = 60


class DefinePractice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Open the book, or change what the practice offers. Bookings made before keep what they have.

    Attributes:
      zone: IANA name.
      grid_min: Starts lie on multiples of this many minutes after local midnight.
      hours: Opening hours by weekday, "0" (Sunday) to "6"; a day that is missing is closed.
    """

    name: Name
    zone: Annotated[str, Meta(min_length=1, max_length=64)]
    currency: Currency
    services: Annotated[list[Service], Meta(min_length=1, max_length=500)]
    staff: Annotated[list[Staff], Meta(min_length=1, max_length=200)]
    hours: dict[str, list[TimeRange]]
    grid_min: Annotated[int, Meta(ge=1, le=240)] = 15
    policies: Policies = Policies()

    def __post_init__(self) -> None:
        """Check what types cannot, and load the zone here, so that no transition reads a file.

        Raises:
          ValueError: One sentence; a decoder turns it into its own error.
        """
        zones.load(self.zone)
        for what, ids in (
            ("service", [service.id for service in self.services]),
            ("member of staff", [member.id for member in self.staff]),
        ):
            if len(set(ids)) != len(ids):
                raise ValueError(f"two entries have the same {what} id")
        _check_hours("hours", self.hours)
        for member in self.staff:
            if member.hours is not None:
                _check_hours(f"hours of {member.id}", member.hours)


def _check_hours(where: str, hours: dict[str, list[TimeRange]]) -> None:
    for weekday, ranges in hours.items():
        if weekday not in _WEEKDAYS:
            raise ValueError(f'{where}: weekdays are "0" (Sunday) to "6", not {weekday!r}')
        end = ""
        for first, last in ranges:
            if not end <= first < last:
                raise ValueError(
                    f"{where}: the ranges of day {weekday} must ascend and not overlap"
                )
            end = last


# --- commands ---------------------------------------------------------------------------------


class RequestSlot(
    msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True, omit_defaults=True
):
    """Ask for one slot (F-032).

    Services and staff are looked up, so nothing more is asked of their names here.

    Attributes:
      customer: For whom; "" where the principal is the customer itself.
      staff: With whom; "" for anybody (the rule is F-211).
      end: If sent, must be what the service's duration gives (C29).
      price_cents: If sent, must be the service's price (C29).
    """

    service: Ref
    start: Instant
    customer: OptionalId = ""
    staff: Annotated[str, Meta(max_length=64)] = ""
    name: Annotated[str, Meta(max_length=200)] = ""
    email: OptionalEmail = ""
    end: Annotated[str, Meta(max_length=35)] = ""
    price_cents: Cents | None = None


class RequestAuto(
    msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True, omit_defaults=True
):
    """Ask for the best slot inside preferences (F-033).

    The best is the first that fits: days in the order given, on each day the schedule's ranges in
    order, in each the preferred ranges in the order given, in each the starts of the grid (U-06).

    Attributes:
      days: Dates, or weekdays, each of which means its earliest date in the window that has a
        bookable slot (C24). Empty: every date from the first on.
      ranges: Appointments lie wholly inside one of them. Empty: the whole day.
      staff: Only these; empty for anybody.
      first: First local date of the window, "" for today.
      last: Last local date of the window, "" for thirteen days after the first.
    """

    service: Ref
    days: Annotated[list[LocalDate | Weekday], Meta(max_length=62)] = []
    ranges: Annotated[list[TimeRange], Meta(max_length=24)] = []
    staff: Annotated[list[Ref], Meta(max_length=200)] = []
    first: OptionalDate = ""
    last: OptionalDate = ""
    customer: OptionalId = ""
    name: Annotated[str, Meta(max_length=200)] = ""
    email: OptionalEmail = ""
    price_cents: Cents | None = None


class Cancel(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True, omit_defaults=True):
    """Give a booking or a slot hold back. Staff and services may do so at any time before its end."""

    booking: Ref
    reason: Annotated[str, Meta(max_length=500)] = ""


# --- other inputs -----------------------------------------------------------------------------


class Tick(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Time has passed; the book's earliest timer is due."""


class TakenOver(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A booking actor took the book over. Its actions are a page of what restore says.

    Attributes:
      position: How far the owners before had decided. What is asked about is what they left under
        way; what was decided since is the new owner's own.
      after: The page begins after this action id.
    """

    epoch: int
    owner: str
    position: Annotated[str, Meta(pattern=r"^[0-9]{1,20}-[0-9]{1,20}$(?!\n)")]
    after: Annotated[str, Meta(pattern=r"^([0-9]{1,20}-[0-9]{1,20}:[0-9]{1,4})?$(?!\n)")] = ""


@final
class PaymentResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What became of a payment action: the payment as the provider knows it after the call.

    Attributes:
      action: The action's own id.
      status: ``unknown``: the provider did not answer in time, what was asked may have happened.
        ``none``: it never heard of the payment. ``pending``: it does not know yet.
        ``failed``: it refuses the call for good (a person must look); the payment is as it was.
      reference: The provider's own id of the payment.
    """

    action: Ref
    payment: Ref
    status: Literal[
        "authorized",
        "captured",
        "voided",
        "refunded",
        "declined",
        "expired",
        "pending",
        "none",
        "unknown",
        "failed",
    ]
    reference: Annotated[str, Meta(max_length=255)] = ""
    reason: Annotated[str, Meta(max_length=500)] = ""


class DeliveryReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What became of a notification. Recorded; no decision depends on it (C18)."""

    action: Ref
    booking: Ref
    status: Literal["delivered", "duplicate", "failed"]
    reason: Annotated[str, Meta(max_length=500)] = ""


Command = DefinePractice | RequestSlot | RequestAuto | Cancel


class Asked(msgspec.Struct, frozen=True, gc=False):
    """A command together with what its entry says around it.

    Attributes:
      key: Idempotency key: the caller's name for one intention.
      by: Principal: ``customer:ID``, ``staff:ID`` or ``service:NAME``.
      digest: Of all this, the command in canonical form: it tells a retry from another intention
        (C16), and one request from another that a failover had given the same id.
    """

    command: Command
    key: str
    by: str
    digest: str


Message = Asked | Tick | TakenOver | DeliveryReport

# --- events -----------------------------------------------------------------------------------


class _Event(msgspec.Struct, frozen=True, tag_field="type", omit_defaults=True, gc=False):
    pass


class PracticeDefined(_Event, frozen=True, tag="practice_defined"):
    """The book is open, or what it offers has changed.

    Attributes:
      zone_digest: Of the zone's offsets: two machines that know the zone differently show here.
    """

    revision: int
    zone_digest: str


class SlotHeld(_Event, frozen=True, tag="slot_held"):
    """A slot is kept for a customer until ``deadline_ms``.

    Attributes:
      start: Local time with its offset, RFC 3339.
      repeated: The customer already had this hold (domain F-200); nothing changed.
    """

    booking: str
    customer: str
    service: str
    staff: str
    start: str
    duration_min: int
    price_cents: int
    currency: str
    deadline_ms: int
    repeated: bool = False


class SlotRequested(_Event, frozen=True, tag="slot_requested"):
    """With ``first_payment_wins``: the request is noted, the slot is not held."""

    booking: str
    customer: str
    service: str
    staff: str
    start: str
    duration_min: int
    price_cents: int
    currency: str
    deadline_ms: int
    repeated: bool = False


class SlotMoved(_Event, frozen=True, tag="slot_moved"):
    """An auto-selected request lost its slot and was given another one inside its preferences."""

    booking: str
    staff: str
    start: str


class BookingConfirmed(_Event, frozen=True, tag="booking_confirmed"):
    """The money is on hold and the slot is the customer's."""

    booking: str
    version: int
    staff: str
    start: str


class PaymentDeclined(_Event, frozen=True, tag="payment_declined"):
    """The provider said no; the slot is free again."""

    booking: str
    reason: str = ""


class HoldExpired(_Event, frozen=True, tag="hold_expired"):
    """The payment did not come in time; the slot is free again."""

    booking: str


class SlotLost(_Event, frozen=True, tag="slot_lost"):
    """The payment succeeded but the slot is somebody else's; the money is released."""

    booking: str


class BookingCancelled(_Event, frozen=True, tag="booking_cancelled"):
    """A booking or slot hold was given back."""

    booking: str
    version: int
    by: str


class BookingCompleted(_Event, frozen=True, tag="booking_completed"):
    """The appointment's time is over."""

    booking: str


class BookingDropped(_Event, frozen=True, tag="booking_dropped"):
    """The booking left the book by its retention rule; it stays in the log and the archive."""

    booking: str


class PaymentObserved(_Event, frozen=True, tag="payment_observed"):
    """The provider's answer changed what the book knows of a payment."""

    payment: str
    observed: str


class CheckScheduled(_Event, frozen=True, tag="check_scheduled"):
    """The payment's status is not known; it will be asked for at ``due_ms``."""

    payment: str
    due_ms: int


class ResultIgnored(_Event, frozen=True, tag="result_ignored"):
    """A result that changes nothing: late, repeated, or of a payment the book does not know."""

    action: str
    why: str


class DeliveryRecorded(_Event, frozen=True, tag="delivery_recorded"):
    """A delivery report was noted."""

    booking: str
    status: str


class BookTakenOver(_Event, frozen=True, tag="taken_over"):
    """A booking actor took the book over.

    Attributes:
      restored: How many actions were emitted again.
      more_after: Where it is not "": there are more, after this action id.
    """

    epoch: int
    restored: int
    more_after: str = ""


Event = (
    PracticeDefined
    | SlotHeld
    | SlotRequested
    | SlotMoved
    | BookingConfirmed
    | PaymentDeclined
    | HoldExpired
    | SlotLost
    | BookingCancelled
    | BookingCompleted
    | BookingDropped
    | PaymentObserved
    | CheckScheduled
    | ResultIgnored
    | DeliveryRecorded
    | BookTakenOver
)

# --- outcomes ---------------------------------------------------------------------------------


class Accepted(msgspec.Struct, frozen=True, gc=False, tag_field="result", tag="accepted"):
    """The input did what it asked; *events* says what that was, in order."""

    events: tuple[Event, ...] = ()


class Refused(msgspec.Struct, frozen=True, gc=False, tag_field="result", tag="refused"):
    """The input changed nothing.

    Attributes:
      error: What was refused, for a person.
      details: Why, one sentence.
      code: One of domain 7.6.
      operation_id: The input's id.
    """

    error: str
    details: str
    code: str
    operation_id: str


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """What became of one input.

    Attributes:
      result: The answer; a retry under the same idempotency key gets it again, byte for byte.
      timers: Events of the timers that were due before this input, and fired first.
      replayed: The answer is an earlier input's, whose idempotency key this one carries.
    """

    result: Accepted | Refused
    timers: tuple[Event, ...] = ()
    replayed: bool = False


# --- actions ----------------------------------------------------------------------------------


class _Action(msgspec.Struct, frozen=True, tag_field="type", omit_defaults=True, gc=False):
    pass


class Preauthorize(_Action, frozen=True, tag="preauthorize"):
    """Put money on hold. Tracked.

    Attributes:
      key: The call's idempotency key at the provider.
    """

    payment: str
    amount_cents: int
    currency: str
    customer: str
    key: str


class Capture(_Action, frozen=True, tag="capture"):
    """Take money that is on hold. Tracked."""

    payment: str
    amount_cents: int
    key: str


class Void(_Action, frozen=True, tag="void"):
    """Release money that is on hold. Tracked."""

    payment: str
    key: str


class Refund(_Action, frozen=True, tag="refund"):
    """Give captured money back. Tracked."""

    payment: str
    amount_cents: int
    key: str


class CheckStatus(_Action, frozen=True, tag="check_status"):
    """Ask what became of a payment. Tracked."""

    payment: str


class Notify(_Action, frozen=True, tag="notify"):
    """Tell a customer what happened. Untracked; the dedupe key is (booking, version, kind, recipient).

    Attributes:
      kind: ``confirmed``, ``declined``, ``expired``, ``lost``, ``moved`` or ``cancelled``.
      recipient: E-mail address, or the customer's id where none is known.
      practice: Its name.
      start: Local time with its offset, RFC 3339.
    """

    booking: str
    version: int
    kind: str
    recipient: str
    name: str
    practice: str
    service: str
    start: str
    duration_min: int


PaymentAction = Preauthorize | Capture | Void | Refund | CheckStatus
Action = PaymentAction | Notify
