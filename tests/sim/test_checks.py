"""Each check fails where what it says does not hold: good worlds, spoilt in one place."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import msgspec
import pytest

from holdfast.actors.payment.ledger import Hold, Void
from holdfast.actors.ports import Commit, DeadLetter, Message
from holdfast.sim.crowd import Acknowledged
from holdfast.sim.mailer import Arrival
from holdfast.sim.promises import Promises
from holdfast.sim.provider import ProviderCall
from holdfast.sim.run import run_world
from holdfast.sim.violations import CHECKS, ViolationError
from holdfast.transport.memory_log import MemoryStream
from holdfast.transport.tails import LostTail

if TYPE_CHECKING:
    from collections.abc import Callable

    from holdfast.actors.booking.book import Book, Booking
    from holdfast.sim.history import Written
    from holdfast.sim.world import World

BOOK = "book1"


@pytest.fixture
def world() -> World:
    """A world without faults in which much was booked, paid and cancelled."""
    result, world = run_world(find_seed(), "mixed", ())
    assert result.violation is None
    return world


@cache
def find_seed() -> int:
    for seed in range(200):
        _, world = run_world(seed, "mixed", ())
        held = world.log.books[BOOK]
        letters = len(held.deadletters.entries)
        if letters and len(live(world)) >= 2 and len(world.books) == 1:
            return seed
    raise AssertionError("no seed has all that these tests need")


def state_of(world: World) -> Book:
    return world.checks.state_of(BOOK)


def live(world: World) -> list[Booking]:
    """Confirmed bookings that are paid."""
    return [
        booking
        for booking in state_of(world).bookings.values()
        if booking.status == "confirmed" and booking.payment.observed == "authorized"
    ]


def fails(check: str, call: Callable[[], object]) -> None:
    """*call* ends with a violation of *check*, whose name begins so."""
    with pytest.raises(ViolationError) as caught:
        call()
    assert caught.value.violation.check.split()[0] == check
    assert caught.value.violation.check in CHECKS


def test_a_good_world_passes_every_check_again(world: World) -> None:
    world.checks.at_rest()
    world.checks.at_end(world.crowd)


# -- the book ---------------------------------------------------------------------------------


def test_s1_two_bookings_at_one_time(world: World) -> None:
    one, other = live(world)[:2]
    other.staff, other.start_ms, other.first, other.day = (
        one.staff,
        one.start_ms,
        one.first,
        one.day,
    )
    fails("S1", lambda: world.checks.check_calendar(state_of(world)))


def test_s2_a_booking_outside_of_the_hours(world: World) -> None:
    booking = live(world)[0]
    definition = state_of(world).revisions[booking.revision].definition
    for day in definition.hours:
        definition.hours[day] = [("00:00", "00:30")]
    for member in definition.staff:
        if member.hours is not None:
            member.hours.clear()
    fails("S2", lambda: world.checks.check_calendar(state_of(world)))


def test_s3_the_calendar_says_more_than_the_bookings(world: World) -> None:
    booking = live(world)[0]
    state_of(world).sheets[booking.staff, booking.day].taken |= 1
    fails("S3", lambda: world.checks.check_calendar(state_of(world)))


def test_the_products_own_scan_is_asked(world: World) -> None:
    state_of(world).customer_holds["nobody"] = 1
    fails("invariants", world.checks.at_rest)


# -- money ------------------------------------------------------------------------------------


def test_s4_the_provider_says_something_else(world: World) -> None:
    reference = f"{BOOK}:{live(world)[0].payment.id}"
    world.provider.book_of_record.apply(Void(reference, "behind our back"))
    fails("S4", world.checks.at_rest)


def test_s4_other_amounts(world: World) -> None:
    live(world)[0].payment.amount_cents += 1
    fails("S4", world.checks.at_rest)


def test_l8_money_on_hold_that_nobody_wants(world: World) -> None:
    world.provider.book_of_record.apply(Hold(f"{BOOK}:p9-9", "k", 5, "EUR", "K1"))
    fails("L8", world.checks.at_rest)


def test_s4_a_tool_releases_what_a_book_wants(world: World) -> None:
    payment = live(world)[0].payment.id
    fails("S4", lambda: world.checks.on_release(f"{BOOK}:{payment}", "key"))
    world.checks.on_release(f"{BOOK}:p1-1", "key")
    world.checks.on_release(f"{BOOK}:{payment}", "key", misled=True)
    world.provider.book_of_record.apply(Void(f"{BOOK}:{payment}", "key"))
    fails("S4", world.checks.at_rest)  # the book must be told of it


def test_s6_a_second_effect(world: World) -> None:
    call = next(call for call in world.provider.calls if call.kind == "hold" and call.first)
    world.provider.calls.append(call)
    fails("S6", lambda: world.checks.at_end(world.crowd))


def test_s9_a_call_before_its_commit(world: World) -> None:
    call = world.provider.calls[0]
    world.provider.calls[0] = msgspec.structs.replace(call, order=0)
    fails("S9", lambda: world.checks.at_end(world.crowd))


def test_s9_a_call_that_nobody_committed(world: World) -> None:
    call = ProviderCall(10**6, "void", f"{BOOK}:p1-1", "made up", "", True)
    world.provider.calls.append(call)
    fails("S9", lambda: world.checks.at_end(world.crowd))


# -- messages ---------------------------------------------------------------------------------


def test_s13_a_message_about_nothing(world: World) -> None:
    message = Message("made up", BOOK, "a@example.org", "s", "t")
    world.mailer.arrivals.append(Arrival(10**6, message, new=True))
    fails("S13", lambda: world.checks.at_end(world.crowd))


def test_s13_a_message_that_never_came(world: World) -> None:
    key = world.mailer.arrivals[0].message.key
    world.mailer.arrivals[:] = [a for a in world.mailer.arrivals if a.message.key != key]
    fails("S13", lambda: world.checks.at_end(world.crowd))


def test_s16_a_message_again_and_again(world: World) -> None:
    world.mailer.arrivals += [world.mailer.arrivals[-1]] * 70
    fails("S16", lambda: world.checks.at_end(world.crowd))


# -- the log ----------------------------------------------------------------------------------


def test_s7_an_outcome_is_missing(world: World) -> None:
    outcomes = world.log.books[BOOK].outcomes
    del outcomes.ids[3], outcomes.entries[3]
    fails("S7", lambda: world.checks.at_end(world.crowd))


def test_s7_an_acknowledged_input_is_gone(world: World) -> None:
    world.crowd.acknowledged.append(Acknowledged(BOOK, "1-1", "k", 0, 1))
    fails("S7", lambda: world.checks.at_end(world.crowd))


def test_s7_an_outcome_changed_after_it_was_seen(world: World) -> None:
    book, outcome = world.crowd.seen[0]
    world.crowd.seen[0] = (book, msgspec.structs.replace(outcome, body=b"{}"))
    fails("S7", lambda: world.checks.at_end(world.crowd))


def test_s7_what_was_called_written_is_gone(world: World) -> None:
    commit = world.log.of(BOOK).commits[-1].commit
    world.checks.shadows[BOOK].digests[commit.position] = "another"
    fails("S7", lambda: world.checks.at_end(world.crowd))


def told_and_lost(world: World, *, kept: bool) -> tuple[Promises, Commit]:
    """A world of its own level, in which the last commit was told, and a failover loses it."""
    commit = world.log.of(BOOK).commits[-1].commit
    checks = world.checks
    promises = Promises(world.log, world.marks, checks.fail, checks.digest_at, kept=kept)
    promises.on_written("booking-1.1", commit)
    return promises, commit


def test_s7_at_replicated_a_failover_loses_what_was_called_written(world: World) -> None:
    promises, commit = told_and_lost(world, kept=True)
    promises.on_failover(BOOK, commit.position)
    fails("S7", lambda: promises.on_failover(BOOK, commit.after))


def test_s7_a_lost_tail_that_nobody_reports(world: World) -> None:
    promises, commit = told_and_lost(world, kept=False)
    promises.on_failover(BOOK, commit.after)
    assert promises.unreported("booking-1.1") == ""
    world.log.books[BOOK].inputs = MemoryStream()
    assert "is lost, and nobody was told" in promises.unreported("booking-1.1")
    assert promises.unreported("another") == ""
    lost = LostTail(BOOK, "0-0", commit.position, "0-0", commit.position, "failover", 1)
    promises.on_lost_tail("booking-1.1", lost)
    assert promises.unreported("booking-1.1") == ""
    promises.check_written()


def test_s7_a_lost_tail_is_reported_and_nothing_is_lost(world: World) -> None:
    promises, commit = told_and_lost(world, kept=False)
    lost = LostTail(BOOK, commit.after, commit.position, "0-0", "0-0", "failover", 1)
    fails("S7", lambda: promises.on_lost_tail("booking-1.1", lost))


def last_commit(world: World, **changes: object) -> Callable[[], None]:
    """Play the last commit of all again, changed, from where it was made."""
    written = world.log.of(BOOK).commits[-1]
    commit: Commit = msgspec.structs.replace(written.commit, **changes)
    again = msgspec.structs.replace(written, commit=commit)
    world.checks.rewind(BOOK, written.commit.after, remember=True)
    return lambda: world.checks.on_commit(BOOK, again)


def test_a_good_commit_can_be_checked_again(world: World) -> None:
    last_commit(world)()


def test_s7_an_outcome_for_an_input_that_is_not_there(world: World) -> None:
    outcomes = world.log.of(BOOK).commits[-1].commit.outcomes
    fails("S7", last_commit(world, outcomes=[*outcomes, outcomes[-1]]))


def test_s8_a_commit_by_an_older_epoch(world: World) -> None:
    fails("S8", last_commit(world, epoch=0))


def test_s8_a_commit_that_leaves_inputs_out(world: World) -> None:
    fails("S8", last_commit(world, after="1-1"))


def test_s8_two_digests_of_one_position(world: World) -> None:
    fails("S8", last_commit(world, digest="00"))


def test_s10_an_outcome_that_a_replay_does_not_give(world: World) -> None:
    outcomes = world.log.of(BOOK).commits[-1].commit.outcomes
    changed = [msgspec.structs.replace(outcome, body=b"{}") for outcome in outcomes]
    fails("S10", last_commit(world, outcomes=changed))


def test_s9_an_action_emitted_twice(world: World) -> None:
    history = world.log.of(BOOK).commits
    written: Written = next(w for w in history if w.commit.notifications)
    world.checks.rewind(BOOK, written.commit.after, remember=True)
    fails("S9", lambda: world.checks.on_commit(BOOK, written))


def test_s10_a_snapshot_of_something_else(world: World) -> None:
    snapshot = world.log.of(BOOK).snapshots[-1]
    world.log.of(BOOK).snapshots.append(msgspec.structs.replace(snapshot, digest="00"))
    fails("S10", lambda: world.checks.at_end(world.crowd))


def test_s12_sent_after_an_acknowledgement_and_before_it_in_the_log(world: World) -> None:
    first, second = world.crowd.acknowledged[0], world.crowd.acknowledged[-1]
    world.crowd.acknowledged[:] = [
        msgspec.structs.replace(first, id=second.id),
        msgspec.structs.replace(second, id=first.id),
    ]
    fails("S12", lambda: world.checks.at_end(world.crowd))


def test_s14_poison_without_a_dead_letter(world: World) -> None:
    letters = world.log.books[BOOK].deadletters
    del letters.ids[0], letters.entries[0]
    fails("S14", lambda: world.checks.at_end(world.crowd))


def test_s14_an_action_that_our_executor_did_not_understand(world: World) -> None:
    letters = world.log.books[BOOK].deadletters
    letters.add(letters.next_id(2**45), DeadLetter("payments", "1-1", "what is this", ()))
    fails("S14", lambda: world.checks.at_end(world.crowd))


# -- rest -------------------------------------------------------------------------------------


def owners(world: World) -> list[str]:
    return [world.log.books[BOOK].record.owner]


def test_a_world_at_rest_has_nothing_left(world: World) -> None:
    assert world.checks.unrest(owners(world), 0) == ("", "")


def test_l1_a_request_without_an_end(world: World) -> None:
    live(world)[0].status = "held"
    assert world.checks.unrest(owners(world), 0)[0].startswith("L1")


def test_l1_a_payment_without_an_end(world: World) -> None:
    live(world)[0].payment.in_flight = "1-1:0"
    assert world.checks.unrest(owners(world), 0)[0].startswith("L1")


def test_l1_an_appointment_that_is_not_over(world: World) -> None:
    assert world.checks.unrest(owners(world), 2**60)[0].startswith("L1")


def test_l2_an_input_that_nobody_decided(world: World) -> None:
    inputs = world.log.books[BOOK].inputs
    inputs.add(inputs.next_id(0), inputs.entries[0])
    assert world.checks.unrest(owners(world), 0)[0].startswith("L2")


def test_l2_an_action_that_nobody_carried_out(world: World) -> None:
    group = world.log.books[BOOK].notifications.groups["notifications"]
    group.last = (0, 0)
    assert world.checks.unrest(owners(world), 0)[0].startswith("L2")


def test_l3_nobody_holds_the_book(world: World) -> None:
    assert world.checks.unrest([], 0)[0].startswith("L3")
