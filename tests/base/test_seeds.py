"""Seeds follow from all their parts, and stay what they are."""

from __future__ import annotations

from vlascope_base.seeds import derive_seed


def test_a_seed_follows_from_every_part_and_their_order():
    assert derive_seed("a", 1) == 2201408217121697680
    others = [derive_seed(*parts) for parts in (("a", 1), ("a", 2), ("b", 1), (1, "a"), ("a", "1"), ("a1",))]
    assert len(set(others)) == len(others)
    assert all(0 <= seed < 2**63 for seed in others)


def test_fewer_bits_are_the_first_of_more():
    assert derive_seed("a", 1, bits=32) == derive_seed("a", 1) >> 31
    assert all(derive_seed("x", n, bits=4) < 16 for n in range(50))
