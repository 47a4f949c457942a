import asyncio
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stillroom.errors import BudgetError, ParamsError
from stillroom.params import Endpoint, Price
from stillroom.teacher.prices import Ledger, cost

amounts = st.floats(0, 100)
prices = st.builds(Price, prompt=amounts, completion=amounts, batch_share=st.floats(0, 1))


def ledger(price, max_cost=None, backend="online"):
    return Ledger("m", Endpoint(prices={"m": price}, max_cost=max_cost, backend=backend))


requests = st.tuples(st.integers(1, 20_000), st.integers(1, 4096))
"""bytes of the prompt, max_tokens"""
ends = st.tuples(st.sampled_from(["settle", "release", "billed"]), st.floats(0, 1), st.floats(0, 1))
"""what becomes of a request; shares of the bytes and of max_tokens that are tokens in the end"""
steps = st.lists(st.tuples(requests, ends, st.integers(0, 3)), max_size=60)


@settings(max_examples=150)
@given(prices, st.floats(0, 2), st.sampled_from(["online", "batch"]), steps)
def test_spending_never_exceeds_the_cap(price, cap, backend, steps):
    """Requests are sent in order and end in any; each step ends up to three of those in flight."""
    book = ledger(price, cap, backend)
    flying = []
    paid = 0.0
    for (size, most), end, ending in steps:
        with suppress(BudgetError):
            flying.append((book.reserve(size, most), size, most, end))
        for _ in range(min(ending, len(flying))):
            reserved, size, most, (kind, prompt_share, share) = flying.pop(0)
            if kind == "settle":
                prompt, completion = int(size * prompt_share), int(most * share)
                cost = book.settle(reserved, size, prompt, completion)
                assert (cost is None) == (prompt == completion == 0)  # the endpoint does not count
                paid += reserved / 1e9 if cost is None else cost
                assert book.spent <= cap
            else:
                book.release(reserved, billed=kind == "billed")
                paid += reserved / 1e9 if kind == "billed" else 0
        assert book.spent >= 0
        assert book.reserved >= 0
        assert book.spent + book.reserved <= cap
        assert book.spent == pytest.approx(paid, abs=1e-6)
    for reserved, *_ in flying:
        book.release(reserved, billed=False)
    assert book.reserved == 0


@given(prices, st.integers(1, 10**6), st.integers(0, 10**6))
def test_a_batch_costs_its_share(price, prompt, completion):
    whole = cost(price, prompt, completion)
    assert cost(price, prompt, completion, batch=True) == pytest.approx(whole * price.batch_share)
    settled = ledger(price, backend="batch").settle(0, 1, prompt, completion)
    assert settled == pytest.approx(whole * price.batch_share, abs=2e-9)


def test_tokens_cost_per_million():
    assert cost(Price(prompt=2.0, completion=10.0), 500_000, 100_000) == 2.0


def test_without_a_price_nothing_is_counted_and_a_cap_is_refused():
    book = Ledger("m", Endpoint())
    assert book.settle(book.reserve(1000, 1000), 1000, 300, 200) is None
    assert book.spent == 0
    with pytest.raises(ParamsError, match="needs the price of 'm'"):
        Ledger("m", Endpoint(max_cost=1.0))


def test_prompts_are_expected_to_count_as_those_before_and_bounded_by_their_bytes():
    book = ledger(Price(prompt=1e6, completion=0))
    assert book.prompt_tokens(300) == 100
    assert book.reserve(300, 10) == 300 * 10**9
    book.settle(0, 1000, 250, 10)
    assert book.prompt_tokens(300) == 75
    book.settle(0, 10, 40, 10)  # an endpoint that adds a prompt of its own
    assert book.reserve(300, 10) == 1200 * 10**9


def test_near_the_cap_requests_wait_for_what_others_give_back():
    """A cap of ten requests' bounds, of which each costs a tenth: 64 at once all get through, in order."""
    book = ledger(Price(prompt=0, completion=1e6), max_cost=1000)
    done = []

    async def request(number):
        reserved = await book.room(1, 100)
        await asyncio.sleep(0)
        book.settle(reserved, 1, 0, 10)
        done.append(number)

    async def all_of_them():
        await asyncio.gather(*map(request, range(64)))

    asyncio.run(all_of_them())
    assert done == sorted(done)
    assert len(done) == 64
    assert (book.spent, book.reserved) == (640, 0)


def test_where_nothing_will_be_given_back_the_run_ends_and_so_do_those_who_wait():
    book = ledger(Price(prompt=0, completion=1e6), max_cost=250)
    ends = []

    async def request():
        try:
            reserved = await book.room(1, 100)
        except BudgetError as error:
            return ends.append(str(error))
        await asyncio.sleep(0.001)
        book.release(reserved, billed=True)

    async def all_of_them():
        await asyncio.gather(*(request() for _ in range(10)))

    asyncio.run(asyncio.wait_for(all_of_them(), 10))
    assert book.spent == 200
    assert len(ends) == 8
    assert "max_cost 250: 200 is spent" in ends[0]
    assert "raise it and run again" in ends[0]
