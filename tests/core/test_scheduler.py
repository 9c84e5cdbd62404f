"""The scheduler alone: plain numbers in, decisions out. No model, no tensor, no clock."""

from typing import Any, cast

import pytest

from basemlx.engine.core.pacer import LinearCost, PrefillPacer
from basemlx.engine.core.scheduler import Schedule, Scheduler
from basemlx.engine.core.sequence import Request, Sequence, Status
from basemlx.engine.core.stream import Mailbox
from basemlx.engine.types import GenerationRequest, SamplingParams


def make_scheduler(
    *,
    rows: int = 4,
    budget: int = 10**9,
    chunk: int = 8,
    waiting: int = 8,
    cached: int = 0,
    pacer: PrefillPacer | None = None,
) -> Scheduler:
    return Scheduler(
        max_num_sequences=rows,
        max_waiting=waiting,
        kv_budget_bytes=budget,
        row_bytes=lambda rows, tokens: rows * tokens,
        cached_tokens=lambda sequence: cached,
        pacer=pacer or PrefillPacer(chunk, 1),
    )


class World:
    """Requests, and a worker that computes at once: each decoding row samples token 7 in every step."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self.arrivals = 0
        self.now_s = 0.0

    def add(
        self, prompt: int, *, n: int = 1, max_tokens: int = 5, priority: int = 0, deadline_s: float = 1e9
    ) -> Request:
        self.arrivals += 1
        source = GenerationRequest(
            f"r{self.arrivals}", "m", tuple(range(prompt)), SamplingParams(n=n), priority=priority
        )
        request = Request(source, Mailbox(), max_tokens, self.now_s, deadline_s, self.arrivals)
        nothing = cast(Any, None)
        for index in range(n):
            request.sequences.append(Sequence(request, index, nothing, nothing, list(range(prompt))))
        self.scheduler.add(request)
        return request

    def step(self) -> Schedule:
        plan = self.scheduler.schedule(self.now_s)
        for request in plan.starved + plan.expired:
            for sequence in request.sequences:
                self.scheduler.finish(sequence)
        for sequence in plan.preempted:
            sequence.num_computed_tokens = 0
        self.scheduler.launched(plan.batch)
        for sequence in [span.sequence for span in plan.batch.decode if span.sequence.num_pending]:
            sequence.num_pending -= 1
            sequence.token_ids.append(7)
            if not sequence.wants_token:
                self.scheduler.finish(sequence)
        self.scheduler.check_integrity()
        return plan

    def run(self, limit: int = 500) -> int:
        for step in range(limit):
            if not self.scheduler.has_work:
                return step
            self.step()
        raise AssertionError("the scheduler does not come to an end")


def test_a_prompt_is_computed_in_chunks_up_to_its_last_token_which_decodes() -> None:
    world = World(make_scheduler(chunk=8))
    request = world.add(20, max_tokens=2)
    counts = [sum(span.count for span in world.step().batch.prefill) for _ in range(3)]
    assert counts == [8, 8, 3]
    plan = world.step()
    assert [span.sequence.request for span in plan.batch.decode] == [request]
    assert request.sequences[0].num_computed_tokens == 20


def test_what_the_prefix_cache_holds_is_not_computed() -> None:
    world = World(make_scheduler(cached=15))
    world.add(20)
    (span,) = world.step().batch.prefill
    assert (span.start, span.count) == (15, 4)
    whole = World(make_scheduler(cached=19))
    request = whole.add(20)
    assert [span.sequence.request for span in whole.step().batch.decode] == [request]


def test_choices_share_one_prefill_and_then_decode_together() -> None:
    world = World(make_scheduler())
    request = world.add(5, n=3)
    prefilled = [span for _ in range(2) for span in world.step().batch.prefill]
    assert [span.sequence for span in prefilled] == request.sequences[:1]
    assert {s.num_computed_tokens for s in request.sequences} == {5}
    world.run()


def test_no_more_rows_run_than_allowed_choices_that_wait_for_their_leader_counted() -> None:
    world = World(make_scheduler(rows=4))
    first, second = world.add(5, n=3), world.add(5, n=2)
    world.step()
    assert world.scheduler.num_running == 3
    assert world.scheduler.num_waiting == 1
    assert second.sequences[0].status is Status.WAITING
    world.run()
    assert first.finished
    assert second.finished


def test_a_higher_priority_is_admitted_first_and_equal_ones_in_order() -> None:
    world = World(make_scheduler(rows=1))
    requests = [world.add(3, priority=priority) for priority in (0, 0, 5)]
    order: list[str] = []
    while world.scheduler.has_work:
        order += [s.request.request_id for s in world.step().admitted]
    assert order == [requests[2].request_id, requests[0].request_id, requests[1].request_id]


def test_a_short_prompt_is_not_held_up_by_a_long_one_and_the_long_one_goes_on() -> None:
    world = World(make_scheduler(chunk=8))
    long = world.add(400)
    world.step()
    short = world.add(20, max_tokens=1)
    steps = 0
    while not short.finished:
        world.step()
        steps += 1
    assert steps <= 8
    assert long.sequences[0].num_computed_tokens > 20


def test_running_rows_decode_in_every_step_of_a_long_prefill() -> None:
    world = World(make_scheduler(chunk=8))
    running = world.add(2, max_tokens=100)
    world.step()
    world.step()
    world.add(300)
    for _ in range(20):
        plan = world.step()
        assert [span.sequence.request for span in plan.batch.decode] == [running]
        assert sum(span.count for span in plan.batch.prefill) <= 8


def spread() -> tuple[World, Request]:
    """A row that decodes beside a prompt whose chunks of 100 tokens take two steps, of 5 and 2 whole layers."""
    pacer = PrefillPacer(100, 8)
    pacer.seed(LinearCost(0.01, 0.0), LinearCost(0.0, 0.00009))
    world = World(make_scheduler(pacer=pacer))
    world.add(2, max_tokens=100)
    world.step()
    world.step()
    return world, world.add(301)


def test_a_chunk_spread_over_steps_counts_as_computed_with_its_last_layers() -> None:
    world, prompt = spread()
    seen = []
    for _ in range(6):
        plan = world.step()
        (span,) = plan.batch.prefill
        assert len(plan.batch.decode) == 1
        seen.append((span.start, plan.batch.layers, prompt.sequences[0].num_computed_tokens))
    halves = [range(6), range(6, 8)]
    assert seen == [
        (start, layers, start + 100 * index) for start in (0, 100, 200) for index, layers in enumerate(halves)
    ]
    assert [span.sequence.request for span in world.step().batch.decode][-1] is prompt


def test_what_is_left_of_a_chunk_is_computed_at_once_when_nobody_decodes_any_more() -> None:
    world, _ = spread()
    world.step()
    for sequence in [s for r in world.scheduler.requests for s in r.sequences if s.status is Status.DECODE]:
        world.scheduler.finish(sequence)
    assert world.step().batch.layers == range(6, 8)
    assert world.step().batch.layers == range(8)


def test_a_chunk_whose_sequence_ends_is_not_gone_on_with() -> None:
    world, prompt = spread()
    world.step()
    world.scheduler.finish(prompt.sequences[0])
    assert not world.step().batch.prefill
    world.add(50)
    assert world.step().batch.layers.start == 0


def test_rows_beyond_the_budget_wait_and_the_latest_gives_way_when_rows_grow() -> None:
    world = World(make_scheduler(budget=60))
    early, late = world.add(10, max_tokens=30), world.add(10, max_tokens=30)
    preempted = []
    for _ in range(200):
        preempted += [s.request for s in world.step().preempted]
        if not world.scheduler.has_work:
            break
    assert set(preempted) == {late}
    assert [s.num_output_tokens for r in (early, late) for s in r.sequences] == [30, 30]


def test_a_row_that_outgrows_the_budget_alone_is_ended_not_tried_for_ever() -> None:
    world = World(make_scheduler(budget=20))
    request = world.add(10, max_tokens=50)
    starved = [r for _ in range(20) for r in world.step().starved]
    assert starved == [request]
    assert not world.scheduler.has_work


def test_a_passed_deadline_is_reported_wherever_the_request_stands() -> None:
    world = World(make_scheduler(rows=1))
    running, waiting = world.add(3, max_tokens=100, deadline_s=5.0), world.add(3, deadline_s=2.0)
    world.step()
    world.now_s = 3.0
    assert world.step().expired == [waiting]
    world.now_s = 6.0
    assert world.step().expired == [running]
    assert not world.scheduler.has_work


@pytest.mark.parametrize("steps", range(6))
def test_finishing_a_request_at_any_stage_leaves_nothing(steps: int) -> None:
    world = World(make_scheduler())
    request = world.add(12, n=2)
    for _ in range(steps):
        world.step()
    for sequence in request.sequences:
        world.scheduler.finish(sequence)
        world.scheduler.finish(sequence)
    assert not world.scheduler.has_work
    assert world.scheduler.num_running == world.scheduler.num_waiting == 0
    world.scheduler.check_integrity()
