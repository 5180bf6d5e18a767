"""Damaged versions of files: cut, bits flipped, other content, other values in JSON."""

import json

from hypothesis import strategies as st

VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-5, 5),
        st.floats(),
        st.text(max_size=3),
        st.sampled_from([10**30, "nan", "1", -1]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=4,
)
OTHER_FILES = [b"", b"{}", b"[]", b"null", b"NaN", b"[" * 100_000, b"\xff\xfe{}", b"9" * 5000]


def damaged_bytes(content):
    """Cuts, flipped bits, inserted bytes, and other files."""
    n = len(content)

    def flipped(at):
        place, bit = at
        return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]

    return st.one_of(
        st.integers(0, n - 1).map(lambda i: content[:i]),
        st.tuples(st.integers(0, n - 1), st.integers(0, 7)).map(flipped),
        st.tuples(st.integers(0, n - 1), st.integers(0, 7)).map(flipped),
        st.tuples(st.integers(0, n), st.binary(max_size=3)).map(
            lambda at: content[: at[0]] + at[1] + content[at[0] :]
        ),
        st.binary(max_size=30),
        st.sampled_from(OTHER_FILES),
    )


@st.composite
def edited_json(draw, content):
    """One value anywhere in it is another one, or missing."""
    place = whole = json.loads(content)
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = draw(st.sampled_from(list(keys)))
        if not isinstance(place[key], (dict, list)) or not place[key] or draw(st.booleans()):
            break
        place = place[key]
    if draw(st.booleans()):
        place[key] = draw(VALUES)
    else:
        del place[key]
    return json.dumps(whole).encode()
