"""An edge over a day: which regions it has sessions with, and which one its stream goes over.

The decisions are the node's own: `core/nearest` and `core/routing` look once a second at what was measured,
as services/regions and services/publish give it to them. What is measured is modelled (`measured`).

Looks that provably change nothing are left out (`Edge.until`); of those at which a region is measured that is
no better, only that is done (`Edge.measure_others`). It saves most of the time and changes no result: with
`thrifty=False` an edge looks every second, and a test compares the two.
"""

import math
from bisect import bisect_right
from collections import Counter, deque
from dataclasses import dataclass, field, replace

from relay.core.health import sends_per_second
from relay.core.nearest import AT_ONCE, GIVE_UP_NS, SECOND, Nearest, Sight
from relay.core.routing import Candidate, Router, clearly_better
from relay.lab.measured import (
    FAR_MS,
    REPORT_MS,
    SAMPLES,
    SPACING_MS,
    Pool,
    Quiet,
    Rest,
    Source,
    access,
    false_alarms_per_s,
    measure,
    silence_ms,
    true_ms,
)
from relay.lab.weather import STEP_S, Conditions, Weather, at
from relay.lab.world import City
from relay.wire.hop import RETRY_MAX, SILENT

SETTLE_S = 2
"""Until the loss of a new session is known."""
REPLAY_S = 60
"""Looks that a router which was left out is given before it decides: what lies before counts e^-12."""
SILENT_S = SILENT // SECOND
NEVER_S = 1 << 40


@dataclass(slots=True)
class Session:
    """With a region, from the look at which it was wanted."""

    name: str
    links: tuple[Conditions, ...]
    opened_s: int
    index: int
    process: int
    settled_s: int
    """Since when its loss is known."""
    counted_s: int
    """Until when its traffic is counted."""
    first: Candidate | None = None
    """What it measures at `settled_s`; None: to be drawn."""
    dead_s: int | None = None
    """Since when nothing comes through in one direction or both; None: it does."""
    pool: Pool | None = None
    """None: to be drawn."""
    digests_per_s: int = 1

    @property
    def now(self) -> Conditions:
        return self.links[self.index]

    @property
    def next_s(self) -> int:
        """When its conditions change."""
        return self.links[self.index + 1].start_s if self.index + 1 < len(self.links) else NEVER_S


@dataclass(frozen=True, slots=True)
class Move:
    """The stream goes over another region."""

    at_s: int
    old: str
    new: str
    cause: str
    """"cost": it is better; "drain"; or what has killed the old one."""


@dataclass(frozen=True, slots=True)
class Gap:
    """No media came over the edge's hop."""

    at_s: int
    ms: float
    cause: str
    standby: bool
    """Whether another region could take over at once."""


@dataclass(slots=True)
class Diary:
    """What became of an edge."""

    number: int
    city: str
    access: str
    publishes: bool
    began: tuple[int, str] = (0, "")
    """When its stream first had a region, and which."""
    moves: list[Move] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    excess_ms: list[float] = field(default_factory=list)
    """Every STEP_S: what the stream's region cost more than the best one, by the model's own figures."""
    false_alarms: float = 0.0
    """Expected."""
    counts: Counter[str] = field(default_factory=Counter)
    """Sessions opened, seconds of sessions, digests, looks at regions and at routes."""


class Edge:
    """`publishes`: its stream goes to the region; else it comes from there."""

    def __init__(self, number: int, home: City, weather: Weather, *, thrifty: bool = True) -> None:
        chance = weather.world.chance("edge", number)
        self.access = access(chance)
        self.diary = Diary(number, home.name, self.access.kind, publishes=number % 2 == 0)
        self.sessions: dict[str, Session] = {}
        self.held: str | None = None
        self._end_s = weather.end_s
        self._thrifty = thrifty
        self._chance = chance
        self._draw = weather.world.chance("measured", number)
        self._links = {region.name: weather.conditions(home, region) for region in weather.world.regions}
        self._flaps = weather.flaps(number)
        self._flap_s = sorted({t for flap in self._flaps for t in (flap.start_s, flap.end_s)})
        self._fixed = {region.name for region in chance.sample(weather.world.regions, 2)}
        self._sights = {name: Sight(name in self._fixed) for name in self._links}
        self._nearest = Nearest(chance.randbytes)
        self._router = Router()
        self._resting = {name: Rest(Candidate(name, False)) for name in self._links}
        self._unsettled = {name: Pool([Candidate(name, True, settled=False)]) for name in self._links}
        self._past: deque[tuple[int, dict[str, Source]]] = deque()
        """What the router would have been shown: since when, and by region."""
        self._routed_s = -1
        """When it was last asked."""
        self._stirred = True
        """A region was clearly better at that look, or there was none to hold."""
        self._bar_ms = 0.0
        """What is clearly better than this may be worth a change, of the route or of the regions kept."""
        self._gap: tuple[int, str] | None = None
        """Since when there is no region, and why."""

    def run(self) -> Diary:
        now_s = 0
        while now_s < self._end_s:
            self._look(now_s)
            then_s = self.measure_others(now_s, self.until(now_s)) if self._thrifty else now_s + 1
            self._account(now_s, then_s)
            now_s = then_s
        if self._gap is not None:
            self.diary.gaps.append(Gap(self._gap[0], (self._end_s - self._gap[0]) * 1e3, self._gap[1], False))
        return self.diary

    # ---- what is measured --------------------------------------------------------------------

    def _flapping(self, now_s: int) -> bool:
        return any(flap.start_s <= now_s < flap.end_s for flap in self._flaps)

    def _advance(self, now_s: int, session: Session, flapping: bool) -> None:
        """Bring a session up to its present conditions."""
        while session.next_s <= now_s:
            session.index += 1
            if session.dead_s is None:
                session.pool = None
                self._pace(session)
        alive = session.now.alive and not flapping
        if not alive and session.dead_s is None:
            session.dead_s = now_s
            if now_s >= session.settled_s:  # nothing new is measured
                session.pool = Pool([self._pool(session).at(now_s - 1)])
        elif alive and session.dead_s is not None:
            away_s = now_s - session.dead_s
            session.dead_s, session.pool = None, None
            if session.process != session.now.process or away_s >= SILENT_S or session.settled_s > now_s:
                session.process = session.now.process
                wait_s = self._draw.uniform(0, min(RETRY_MAX / SECOND, away_s / 2))
                session.settled_s, session.first = now_s + 1 + math.ceil(wait_s) + SETTLE_S, None

    def _pace(self, session: Session) -> None:
        session.digests_per_s = sends_per_second(session.now.loss_ratio + self.access.loss_ratio)

    def _connected(self, now_s: int, session: Session) -> bool:
        if session.dead_s is not None:
            return now_s - session.dead_s < SILENT_S and session.settled_s <= now_s
        return now_s >= session.settled_s - SETTLE_S

    def _pool(self, session: Session) -> Pool:
        if session.pool is None:
            media = session.name == self.held
            samples = [
                measure(self._draw, self.access, session.name, session.now, media=media)
                for _ in range(SAMPLES)
            ]
            session.pool = Pool(samples, self._draw.getrandbits(24))
        return session.pool

    def _source(self, now_s: int, session: Session) -> Source:
        """What the session shows now."""
        if not self._connected(now_s, session):
            return Pool([Candidate(session.name, False)])
        if now_s < session.settled_s:
            return self._unsettled[session.name]
        if session.pool is None and now_s == session.settled_s:  # it may be closed at once
            return Pool([self._first(session)])
        return self._pool(session)

    def _first(self, session: Session) -> Candidate:
        if session.first is None:
            session.first = measure(self._draw, self.access, session.name, session.now, media=False)
        return session.first

    def _next_source(self, name: str) -> Source:
        """What a region shows in the second after its session was opened or closed."""
        session = self.sessions.get(name)
        if session is None:
            return self._resting[name]
        return self._unsettled[name] if session.dead_s is None else Pool([Candidate(name, False)])

    def _refusal(self, session: Session) -> str:
        """Why the region does not take the stream."""
        if session.dead_s is not None and (session.name != self.held or self._cut(session)):
            return "silent"
        return "this node is draining" if session.now.draining and session.dead_s is None else ""

    def _cut(self, session: Session) -> bool:
        """Whether it is the media that does not come through."""
        if session.now.alive:
            return session.dead_s is not None  # by the edge's own access
        return not (session.now.up if self.diary.publishes else session.now.down)

    # ---- a look ------------------------------------------------------------------------------

    def _look(self, now_s: int) -> None:
        flapping = self._flapping(now_s)
        sources: dict[str, Source] = {}
        seen: dict[str, Candidate] = {}
        for name, session in self.sessions.items():
            self._advance(now_s, session, flapping)
            sources[name] = self._source(now_s, session)
            seen[name] = sources[name].at(now_s)
            self._sights[name] = Sight(name in self._fixed, name == self.held, seen[name])
        self._route(now_s, sources, seen)
        wanted = self._nearest.look(now_s * SECOND, self._sights)
        changed = wanted ^ self.sessions.keys()
        for name in sorted(changed):
            if name in wanted:
                self._open(now_s, self._session(now_s, name), flapping)
            else:
                self._close(name)
        before = self._past[-1][1]
        after = {name: self._next_source(name) for name in changed}
        for name, session in self.sessions.items():
            if now_s >= session.settled_s and session.dead_s is None:
                pool = self._pool(session)
                if before[name] is not pool and not self._refusal(session):
                    after[name] = pool
        if after:
            self._past.append((now_s + 1, before | after))
        self.diary.counts["looks at regions"] += 1

    def _session(self, now_s: int, name: str) -> Session:
        links = self._links[name]
        index = bisect_right(links, now_s, key=lambda c: c.start_s) - 1
        return Session(name, links, now_s, index, links[index].process, now_s + 1 + SETTLE_S, now_s)

    def _open(self, now_s: int, session: Session, flapping: bool) -> None:
        if flapping or not session.now.alive:
            session.dead_s, session.settled_s = now_s, NEVER_S
        self._pace(session)
        self.sessions[session.name] = session
        self.diary.counts["sessions"] += 1

    def _close(self, name: str) -> None:
        del self.sessions[name]
        self._sights[name] = Sight(name in self._fixed)
        self._resting[name] = Rest(self._nearest.known[name].candidate or Candidate(name, False))

    # ---- the route ---------------------------------------------------------------------------

    def _route(self, now_s: int, sources: dict[str, Source], seen: dict[str, Candidate]) -> None:
        shown = {**self._resting, **sources}
        for name, session in self.sessions.items():
            if refusal := self._refusal(session):
                seen[name] = replace(seen[name], refused=refusal)
                shown[name] = Pool([seen[name]])
        held = seen.get(self.held or "")
        stirs = held is None or not held.usable
        if held is not None and not stirs:
            held_ms = held.cost_ms - held.terms_ms["load"]  # as the router compares
            stirs = any(c.usable and c.settled and clearly_better(c.cost_ms, held_ms) for c in seen.values())
        if stirs or self._stirred or not self._thrifty:
            self._replay(now_s)
            self._choose(now_s, [pool.at(now_s) for pool in shown.values()])
        self._stirred = stirs
        self._past.append((now_s, shown))
        self._forget(now_s)

    def _replay(self, now_s: int) -> None:
        """Show the router the looks that it has missed."""
        past, self._past = self._past, deque()
        for (since_s, shown), then_s in zip(past, [*(s for s, _ in past), now_s][1:], strict=True):
            for second in range(max(since_s, self._routed_s + 1, now_s - REPLAY_S), then_s):
                candidates = [pool.at(second) for pool in shown.values()]
                chosen = self._router.choose(second * SECOND, candidates, self.held).peer
                assert chosen == self.held, f"edge {self.diary.number}: a look at {second} s was left out"

    def _forget(self, now_s: int) -> None:
        """What is too old to be shown."""
        while len(self._past) > 1 and self._past[1][0] <= now_s - REPLAY_S:
            self._past.popleft()

    def _choose(self, now_s: int, candidates: list[Candidate]) -> None:
        self.diary.counts["looks at routes"] += 1
        self._routed_s = now_s
        new = self._router.choose(now_s * SECOND, candidates, self.held).peer
        if self.held is None:
            if new is not None:
                self.diary.began = (now_s, new)
                self._hold(new)
            return
        cause = self._cause(now_s)
        if new is None:
            self._gap = self._gap or (now_s, cause)
            return
        if self._gap is not None:
            since_s, why = self._gap
            took_ms = (now_s - since_s) * 1e3 + (0 if new == self.held else self._take_over_ms(new))
            self.diary.gaps.append(Gap(since_s, took_ms, why, False))
            self._gap = None
        elif new != self.held and cause not in ("cost", "drain", "way back"):
            self.diary.gaps.append(Gap(now_s, self._silence_ms() + self._take_over_ms(new), cause, True))
        if new != self.held:
            self.diary.moves.append(Move(now_s, self.held, new, cause))
            self._hold(new)

    def _hold(self, name: str) -> None:
        """The stream's packets tell more of the loss."""
        for session in self.sessions.values():
            if session.name in (name, self.held) and session.dead_s is None:
                session.pool = None
        for changed in {self.held, name} - {None}:
            assert changed is not None
            sight = self._sights[changed]
            self._sights[changed] = replace(sight, used=changed == name)
        self.held = name

    def _cause(self, now_s: int) -> str:
        """What is wrong with the held region."""
        session = self.sessions[self.held or ""]
        if session.dead_s is None:
            return "drain" if session.now.draining else "cost"
        if not self._cut(session):
            return "way back"
        return session.now.why or "access"

    def _silence_ms(self) -> float:
        """Until the failure of the held region is noticed: by the viewer from its packets, by the publisher
        from what the reports say, half a round trip later if they still come."""
        session = self.sessions[self.held or ""]
        measured = self._pool(session).samples[0]
        if not self.diary.publishes:
            return silence_ms(measured.loss_ratio, measured.jitter_ms, SPACING_MS)
        told_ms = measured.rtt_ms / 2 if session.now.down else 0.0
        return told_ms + silence_ms(measured.loss_ratio, measured.jitter_ms, REPORT_MS)

    def _take_over_ms(self, new: str) -> float:
        """Until the next region's first packet: a viewer asks its standby, a publisher offers, and sends when
        that is taken."""
        rtt_ms = self._pool(self.sessions[new]).samples[0].rtt_ms
        return 1.5 * rtt_ms if self.diary.publishes else rtt_ms

    # ---- what may be left out ----------------------------------------------------------------

    def until(self, now_s: int) -> int:
        """The next look that may change anything. All before it see the same sessions, beside those that only
        measure a region, under the same conditions, and costs in no order that leads to anything."""
        if self._stirred or self.held is None or self._refusal(self.sessions[self.held]):
            return now_s + 1
        flap = bisect_right(self._flap_s, now_s)
        then_s = min([self._end_s, now_s // STEP_S * STEP_S + STEP_S, *self._flap_s[flap : flap + 1]])
        settled: dict[str, Pool] = {}
        for name, session in self.sessions.items():
            waits = now_s < session.settled_s and session.settled_s - session.opened_s > GIVE_UP_NS // SECOND
            if session.dead_s is not None or waits:
                return now_s + 1
            if now_s >= session.settled_s:
                settled[name] = self._pool(session)
            elif not self._only_measures(name):
                then_s = min(then_s, session.settled_s)
            then_s = min(then_s, session.next_s)
        if self.held not in settled:
            return now_s + 1
        kept: list[Source] = []
        others: list[Source] = []
        resting_ms = FAR_MS
        for name, known in self._nearest.known.items():
            if known.kept and known.candidate is not None:
                kept.append(settled.get(name) or Rest(known.candidate))
            elif name in settled:
                others.append(settled[name])
            elif known.candidate is not None:
                resting_ms = min(resting_ms, known.candidate.cost_ms)
        held = settled.pop(self.held)
        load_ms = held.samples[0].terms_ms["load"]
        self._bar_ms = max(held.high - load_ms, *(source.high for source in kept))
        reference_ms = self._nearest.reference_ms
        quiet = Quiet(kept, others, resting_ms, held, load_ms, list(settled.values()), reference_ms)
        return max(quiet.until(now_s, then_s), now_s + 1)

    # ---- regions that are only measured ------------------------------------------------------

    def _only_measures(self, name: str) -> bool:
        """Whether the session ends when it has measured the region."""
        return name not in self._fixed and name != self.held and not self._nearest.known[name].kept

    def measure_others(self, now_s: int, until_s: int) -> int:
        """What looks before `until_s` would do about those; gives the next second of a whole look, which is
        earlier if one of them does not answer or may be worth a change."""
        if until_s == now_s + 1:
            return until_s
        for name, session in self.sessions.items():
            if session.opened_s == now_s:
                self._nearest.known[name].opened_ns = (now_s + 1) * SECOND
        probes = {name: session for name, session in self.sessions.items() if self._only_measures(name)}
        second = self._next_probe(now_s, probes)
        while second < until_s and self._probe(second, probes):
            second = self._next_probe(second, probes)
        return min(second, until_s)

    def _next_probe(self, now_s: int, probes: dict[str, Session]) -> int:
        """When the next one is to be opened or closed."""
        then_s = min((session.settled_s for session in probes.values()), default=NEVER_S)
        if len(probes) < AT_ONCE:
            known = self._nearest.known.items()
            due_ns = min((k.due_ns for name, k in known if name not in self.sessions), default=NEVER_S)
            then_s = min(then_s, max(-(-due_ns // SECOND), now_s + 1))
        return then_s

    def _probe(self, now_s: int, probes: dict[str, Session]) -> bool:
        """Close those that have measured, open those that are due. False: nothing was done, look."""
        ending = {name: session for name, session in probes.items() if session.settled_s == now_s}
        found = {name: self._first(session) for name, session in ending.items()}
        if any(clearly_better(c.cost_ms, self._bar_ms) or c.full for c in found.values()):
            return False
        due = self._nearest.due(now_s * SECOND, len(probes) - len(ending))
        opening = [self._session(now_s, name) for name in sorted(due)]
        if not all(session.now.alive and session.next_s > session.settled_s for session in opening):
            return False
        shown = {**self._past[-1][1], **{name: Pool([c]) for name, c in found.items()}}
        for name in sorted(found):
            self._count(ending[name], now_s)
            self._nearest.measured(now_s * SECOND, name, found[name])
            self._nearest.rests(now_s * SECOND, name)
            self._close(name)
            del probes[name]
        for session in opening:
            self._open(now_s, session, False)
            self._nearest.known[session.name].opened_ns = (now_s + 1) * SECOND
            probes[session.name] = session
        after = {name: self._next_source(name) for name in [*found, *due]}
        self._past += (now_s, shown), (now_s + 1, {**shown, **after})
        self._forget(now_s)
        return True

    # ---- what is counted ---------------------------------------------------------------------

    def _count(self, session: Session, until_s: int) -> None:
        span_s = until_s - session.counted_s
        session.counted_s = until_s
        if session.dead_s is None:
            self.diary.counts["session seconds"] += span_s
            self.diary.counts["digests"] += span_s * session.digests_per_s

    def _account(self, now_s: int, then_s: int) -> None:
        span_s = then_s - now_s
        self.diary.counts["seconds"] += span_s
        for session in self.sessions.values():
            self._count(session, then_s)
        held = self.sessions.get(self.held or "")
        if held is None or held.dead_s is not None:
            return
        self.diary.false_alarms += span_s * false_alarms_per_s(held.now.loss_ratio + self.access.loss_ratio)
        if now_s % STEP_S == 0:
            costs = {name: true_ms(self.access, at(links, now_s)) for name, links in self._links.items()}
            self.diary.excess_ms.append(costs[held.name] - min(costs.values()))
