"""The page about a failed world: it stands alone, shows what happened, and lets no stranger in."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from base64 import b64encode
from contextlib import contextmanager
from hashlib import sha256
from html.parser import HTMLParser
from typing import TYPE_CHECKING, NamedTuple

import pytest

from holdfast.actors.booking import payments
from holdfast.actors.ports import InputEntry
from holdfast.sim.cases import Case
from holdfast.sim.report import page_of, story, write_report
from holdfast.sim.run import run_world
from holdfast.sim.violations import CHECKS, Violation
from holdfast.transport import memory_log

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from holdfast.actors.booking.book import Call, Payment
    from holdfast.actors.ports import CommitRecord
    from holdfast.sim.run import Result
    from holdfast.sim.world import World

OUTSIDE = ("src", "href", "srcset", "action", "data", "poster", "background", "xlink:href")
LOADING = ("link", "img", "iframe", "object", "embed", "base", "form", "audio", "video", "image")


class Failed(NamedTuple):
    """A world that failed."""

    case: Case
    result: Result
    world: World


class Element(NamedTuple):
    """A start tag inside those that are open."""

    tag: str
    attributes: dict[str, str]
    inside: tuple[str, ...]


class Page(HTMLParser):
    """What a page consists of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self.texts: dict[str, str] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        self.elements.append(Element(tag, attributes, tuple(self._open)))
        if tag not in ("meta", "br", "link", "img", "base", "embed", "input"):
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {k: v or "" for k, v in attrs}, tuple(self._open)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts[self._open[-1]] = self.texts.get(self._open[-1], "") + data

    def of_class(self, name: str) -> list[dict[str, str]]:
        """The attributes of all elements of a class."""
        return [
            one.attributes
            for one in self.elements
            if name in one.attributes.get("class", "").split()
        ]

    def by_id(self, id_: str) -> dict[str, str]:
        """The attributes of an element."""
        (found,) = (one.attributes for one in self.elements if one.attributes.get("id") == id_)
        return found


def _first(scenario: str, *, check: str, at: str = "") -> Failed:
    """The first world of one book that fails *check*, at an event *at* if one is named."""
    for seed in range(40):
        result, world = run_world(seed, scenario)
        violation = result.violation
        if violation is None or violation.check != check or world.options.books != 1:
            continue
        if at in ("", world.trace.lines[violation.order - 1][2]):
            return Failed(Case(seed, scenario, check=check), result, world)
    raise AssertionError(f"no world of {scenario} fails {check!r}")


@contextmanager
def _without_a_fence() -> Generator[None]:
    """The log takes commits of whoever held the book before."""

    def never(_record: CommitRecord, _epoch: int, _owner: str) -> bool:
        return False

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_log, "_fenced", never)
        yield


@contextmanager
def _without_voids() -> Generator[None]:
    """Money that is not wanted is never released."""
    real = payments.wanted_call

    def wanted(payment: Payment) -> Call:
        call = real(payment)
        return "" if call == "void" else call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(payments, "wanted_call", wanted)
        yield


@pytest.fixture(scope="module")
def fenceless() -> Failed:
    """A commit or a snapshot of an older epoch was written."""
    with _without_a_fence():
        return _first("rivals", check="S8 store")


@pytest.fixture(scope="module")
def committed() -> Failed:
    """The same, where a commit is the first to be seen, and no snapshot."""
    with _without_a_fence():
        return _first("rivals", check="S8 store", at="commit")


@pytest.fixture(scope="module")
def voidless() -> Failed:
    """The world waited in vain for money to be released."""
    with _without_voids():
        return _first("mixed", check="L1 terminal")


def test_a_page_reaches_for_nothing_outside(fenceless: Failed) -> None:
    """It is opened where there is no network, and years later."""
    page = Page(page_of(*fenceless))
    for element in page.elements:
        assert element.tag not in LOADING
        for name in OUTSIDE:
            assert element.attributes.get(name, "#").startswith("#"), element
        assert not [name for name in element.attributes if name.startswith("on")]
    for link in re.findall(r"url\(([^)]*)\)", page.texts["style"]):
        assert link.startswith("#")
    assert "@import" not in page.texts["style"]
    assert not re.search(r"fetch|XMLHttp|import|://", page.texts["script"])


def test_a_page_runs_no_script_but_its_own(fenceless: Failed) -> None:
    page = Page(page_of(*fenceless))
    (policy,) = (
        one.attributes["content"]
        for one in page.elements
        if one.attributes.get("http-equiv") == "Content-Security-Policy"
    )
    own = b64encode(sha256(page.texts["script"].encode()).digest()).decode()
    assert policy == (f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{own}'")


def test_a_page_tells_what_failed_and_how_to_see_it_again(fenceless: Failed) -> None:
    case, result, _ = fenceless
    assert result.violation is not None
    text = page_of(*fenceless, difference="event 7: <a> instead of b", case_file="night/7.json")
    assert f"<h1>{result.violation.check}</h1>" in text
    assert CHECKS[result.violation.check] in text
    assert result.violation.details in text
    assert "holdfast sim --replay night/7.json" in text
    assert f"holdfast sim rivals --seeds {case.seed}" in text
    assert "event 7: &lt;a&gt; instead of b" in text


def test_each_actor_and_place_has_one_lane(fenceless: Failed) -> None:
    _, _, world = fenceless
    lanes = [one["data-lane"] for one in Page(page_of(*fenceless)).of_class("lane")]
    assert len(lanes) == len(dict.fromkeys(lanes))
    for _, who, _, _ in world.trace.lines:
        life = re.fullmatch(r"((?:booking|payment|notification)-\d+)(\.\d+)?", who)
        if life:
            assert life[1] in lanes
        elif who.startswith("customer:K"):
            assert who.replace("customer:K", "customer ") in lanes
        elif who in ("server", "provider", "mailer", "world"):
            assert who in lanes
    assert {"server", "operator", "booking-1", "booking-2"} <= {*lanes}


def test_the_violation_is_marked_at_its_event_in_its_lanes(committed: Failed) -> None:
    """The commit that should have been refused, at the log and at the process that sent it."""
    _, result, world = committed
    assert result.violation is not None
    page = Page(page_of(*committed))
    seen = result.violation.order - 1
    assert world.trace.lines[seen][1:3] == ("server", "commit")
    place = page.by_id("violation")
    assert place["data-event"] == str(seen)
    assert place["data-x"] == page.by_id(f"e{seen}")["data-x"]
    (written,) = (
        one
        for history in world.log.history.values()
        for one in history.commits
        if one.order == seen
    )
    writer = world.owners[written.commit.owner].partition(".")[0]
    marked = [one["data-lane"] for one in page.of_class("violated") if "cx" in one]
    assert sorted(marked) == sorted(["server", writer])


def test_what_was_seen_by_waiting_in_vain_stands_after_the_last_event(voidless: Failed) -> None:
    page = Page(page_of(*voidless))
    place = page.by_id("violation")
    assert place["data-event"] == ""
    assert all(float(one["data-x"]) < float(place["data-x"]) for one in page.of_class("mark"))
    assert [one["data-lane"] for one in page.of_class("violated") if "cx" in one] == ["provider"]


def test_every_fault_is_a_mark_of_its_own_shape(fenceless: Failed, voidless: Failed) -> None:
    for failed in (fenceless, voidless):
        page = Page(page_of(*failed))
        faults = failed.world.trace.faults
        marks = [one["id"] for one in page.of_class("mark") if "fault" in one["class"].split()]
        assert marks == [f"e{number}" for number in faults]
        shapes: dict[str, list[str]] = {}
        for one in page.of_class("m"):
            shapes.setdefault(one["d"], []).append(one["class"])
        (of_faults,) = (classes for classes in shapes.values() if "m fault" in classes)
        assert of_faults == ["m fault"] * (1 + len(faults))  # one is the legend's
    assert voidless.world.trace.faults


def test_every_event_is_shown_or_counted_as_left_out(voidless: Failed) -> None:
    """Reads that only wait are folded."""
    _, result, world = voidless
    assert result.violation is not None
    told = story.tell(world, result.violation, result.virtual_ms)
    assert told.before == told.after == 0
    assert len(told.events) + sum(told.folded.values()) == len(world.trace.lines)
    assert sum(told.folded.values()) > 100
    page = Page(page_of(*voidless))
    assert len(page.of_class("mark")) == len(told.events)


def test_of_a_long_run_there_is_a_window_around_the_violation(
    fenceless: Failed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(story, "EVENTS_MAX", 12)
    _, result, world = fenceless
    assert result.violation is not None
    text = page_of(*fenceless)
    numbers = [int(one["id"][1:]) for one in Page(text).of_class("mark")]
    assert len(numbers) == 12
    assert result.violation.order - 1 in numbers
    assert numbers[-1] == len(world.trace.lines) - 1
    assert f"12 events around the violation; left out: {numbers[0]} events before them." in text


def test_an_input_its_outcome_and_its_events_belong_together(voidless: Failed) -> None:
    """They share the number of the input, and that is what the page's script goes by."""
    _, _, world = voidless
    page = Page(page_of(*voidless))
    (book,) = world.log.history
    inputs = [one["data-inputs"] for one in page.of_class("input")]
    assert len(inputs) == len(world.log.history[book].inputs)
    of_marks: dict[str, list[str]] = {}
    for mark in page.of_class("mark"):
        what = world.trace.lines[int(mark["id"][1:])][2]
        for one in mark["data-inputs"].split():
            of_marks.setdefault(one, []).append(what)
    for written in world.log.history[book].commits:
        for outcome in written.commit.outcomes:
            number = [one.id for one in world.log.history[book].inputs].index(outcome.id)
            assert "commit" in of_marks[str(number)]
    sent = [whats for whats in of_marks.values() if "send" in whats]
    assert sent
    assert all("input" in whats for whats in sent)


def test_a_line_leads_from_each_commit_to_its_writer_and_from_nothing_else() -> None:
    """Not from what strangers wrote without a name, either."""
    worlds = (run_world(seed, "stress")[1] for seed in range(40))
    strangers = ("", "x", "nobody", "customer:G")
    world = next(one for one in worlds if any(who in strangers for _, who, _, _ in one.trace.lines))
    lines = world.trace.lines
    told = story.tell(world, Violation("S8 store", "", len(lines)), 0)
    commits = {
        one.order: world.owners[one.commit.owner].partition(".")[0]
        for history in world.log.history.values()
        for one in history.commits
    }
    led = {
        number: told.lanes[lane]
        for number, lane in told.touched.items()
        if number not in world.trace.faults
    }
    assert led == commits
    for number in world.trace.faults:
        if number in told.touched:
            lane = told.lanes[told.touched[number]].replace("customer ", "customer-")
            assert lines[number][3].startswith(lane) or lane in (
                "customers",
                "strangers",
                "operator",
            )


def test_the_inputs_that_the_violation_names_are_marked_in_the_log(voidless: Failed) -> None:
    _, result, world = voidless
    assert result.violation is not None
    page = Page(page_of(*voidless))
    marked = [one["data-inputs"] for one in page.of_class("violated") if "tabindex" in one]
    (history,) = world.log.history.values()
    assert [history.inputs[int(number)].id in result.violation.details for number in marked] == [
        True
    ]


def test_what_strangers_write_stays_text() -> None:
    """Into the log, under every name, and in what a check quotes."""
    evil = '<img src="http://evil/"><script>alert(1)</script>\u202e\x1b\udc80'
    with _without_a_fence():
        case, result, world = _first("rivals", check="S8 store")
    world.trace.fault("server", evil, f"book1 {evil}")
    world.trace.note(f"service:{evil}", "send", evil)
    world.log.of("book1").inputs.append(
        InputEntry("1767603700000-0", evil, evil.encode("utf-8", "replace"), evil, evil)
    )
    text = page_of(case, result, world, evil, evil)
    text.encode("utf-8")
    page = Page(text)
    assert [one for one in page.elements if one.tag in ("img", "script")] == [
        Element("script", {}, ("html", "body"))
    ]
    assert not {"\u202e", "\x1b", "\udc80"} & {*text}
    assert "\\u202e" in text


def test_the_same_case_gives_the_same_page(fenceless: Failed, tmp_path: Path) -> None:
    case, result, world = fenceless
    write_report(tmp_path / "one.html", case, result, world)
    with _without_a_fence():
        again, other = run_world(case.seed, case.scenario, case.groups)
    write_report(tmp_path / "two.html", case, again, other)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


_WRITE = """
import sys
from pathlib import Path
from holdfast.sim.cases import Case
from holdfast.sim.report import write_report
from holdfast.sim.run import run_world
from holdfast.transport import memory_log
memory_log._fenced = lambda record, epoch, owner: False
seed = int(sys.argv[1])
write_report(Path(sys.argv[2]), Case(seed, "rivals", check="S8 store"), *run_world(seed, "rivals"))
"""


@pytest.mark.slow
def test_pages_are_equal_in_processes_that_differ(fenceless: Failed, tmp_path: Path) -> None:
    """Hash seed and time zone are no part of a page."""
    for hash_seed, zone in (("1", "UTC"), ("77", "Asia/Kolkata")):
        subprocess.run(
            [sys.executable, "-c", _WRITE, str(fenceless.case.seed), str(tmp_path / hash_seed)],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "TZ": zone},
            check=True,
            timeout=60,
        )
    assert (tmp_path / "1").read_text() == (tmp_path / "77").read_text() == page_of(*fenceless)


def test_a_world_in_which_all_holds_has_no_report() -> None:
    result, world = run_world(1)
    with pytest.raises(ValueError, match="nothing to report"):
        page_of(Case(1, "mixed"), result, world)


# -- in a browser -----------------------------------------------------------------------------

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
in_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no Chromium here: apt-get install chromium"
)


def _chromium(profile: Path, page: Path, *arguments: str) -> str:
    """Open *page* without a network; what Chromium prints."""
    assert CHROMIUM is not None
    profile.mkdir()
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"]
    command += ["--no-first-run", "--disable-background-networking", "--disable-component-update"]
    command += ["--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars"]
    command += ["--proxy-server=http://127.0.0.1:9", f"--user-data-dir={profile}"]
    done = subprocess.run(
        [*command, *arguments, page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


def _root(dom: str) -> dict[str, str]:
    return Page(dom).elements[0].attributes


@in_chromium
@pytest.mark.slow
def test_a_browser_shows_every_mark_and_reports_no_error(voidless: Failed, tmp_path: Path) -> None:
    write_report(tmp_path / "page.html", *voidless)
    dom = _chromium(tmp_path / "profile", tmp_path / "page.html", "--dump-dom")
    assert "data-error" not in _root(dom)
    marks = len(Page(page_of(*voidless)).of_class("mark"))
    assert _root(dom)["data-marks"] == str(marks)
    assert len(Page(dom).of_class("mark")) == marks


@in_chromium
@pytest.mark.slow
def test_choosing_the_violation_brings_out_what_belongs_to_it(
    voidless: Failed, tmp_path: Path
) -> None:
    """The one change to the page: its policy goes, and a click comes."""
    text = page_of(*voidless)
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    click = "<script>document.getElementById('seen').click()</script></body>"
    (tmp_path / "page.html").write_text(text.replace("</body>", click), encoding="utf-8")
    dom = _chromium(tmp_path / "profile", tmp_path / "page.html", "--dump-dom")
    assert "data-error" not in _root(dom)
    page = Page(dom)
    number = page.by_id("seen")["data-inputs"]
    chosen = page.of_class("chosen")
    assert all(number in one["data-inputs"].split() for one in chosen)
    assert {"mark", "input"} <= {name for one in chosen for name in one["class"].split()}


@in_chromium
@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1440, 1), (900, 0)])
def test_a_browser_paints_the_page(
    fenceless: Failed, tmp_path: Path, width: int, scheme: int
) -> None:
    """In both schemes: most of it is paper, and the violation's and the marks' colours are there."""
    write_report(tmp_path / "page.html", *fenceless)
    shot = tmp_path / "shot.png"
    _chromium(
        tmp_path / "profile",
        tmp_path / "page.html",
        f"--screenshot={shot}",
        f"--window-size={width},1000",
        f"--blink-settings=preferredColorScheme={scheme}",
    )
    size, colours = _png(shot.read_bytes())
    assert size == (width, 1000)
    assert len(colours) > 50
    paper, fail = [("#15171b", "#ff5c72"), ("#fbfaf7", "#c4122f")][scheme]
    assert colours[bytes.fromhex(paper[1:])] > 0.3 * width * 1000
    assert colours[bytes.fromhex(fail[1:])] > 500


def _png(data: bytes) -> tuple[tuple[int, int], dict[bytes, int]]:
    """A picture's size, and how many of its pixels have each colour."""
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    at, packed = 8, b""
    width, height, depth, kind = struct.unpack(">IIBB", data[16:26])
    assert depth == 8
    channels = {2: 3, 6: 4}[kind]
    while at < len(data):
        length, name = struct.unpack(">I4s", data[at : at + 8])
        if name == b"IDAT":
            packed += data[at + 8 : at + 8 + length]
        at += 12 + length
    raw, stride = zlib.decompress(packed), width * channels
    colours: dict[bytes, int] = {}
    before = bytes(stride)
    for row in range(height):
        begin = row * (stride + 1)
        before = _unfiltered(raw[begin], raw[begin + 1 : begin + 1 + stride], before, channels)
        for x in range(0, stride, channels):
            colour = before[x : x + 3]
            colours[colour] = colours.get(colour, 0) + 1
    return (width, height), colours


def _unfiltered(kind: int, row: bytes, above: bytes, channels: int) -> bytes:
    """A row of a picture, of which only the difference to its neighbours is stored."""
    out = bytearray(row)
    for at in range(len(out)) if kind else ():
        left = out[at - channels] if at >= channels else 0
        corner = above[at - channels] if at >= channels else 0
        match kind:
            case 1:
                guess = left
            case 2:
                guess = above[at]
            case 3:
                guess = (left + above[at]) // 2
            case _:
                guess = _paeth(left, above[at], corner)
        out[at] = (out[at] + guess) & 0xFF
    return bytes(out)


def _paeth(left: int, above: int, corner: int) -> int:
    guess = left + above - corner
    return min((left, above, corner), key=lambda one: abs(guess - one))
