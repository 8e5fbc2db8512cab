"""What records are made of, for Hypothesis. Sizes are small: it is the shapes that matter."""

from __future__ import annotations

from hypothesis import strategies as st

from everlatch.types import ACL, ClientInfo, Node, Stat

int32 = st.integers(-(2**31), 2**31 - 1)
int64 = st.integers(-(2**63), 2**63 - 1)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
texts = st.lists(text, max_size=4)
data = st.binary(max_size=24)
nullable_data = st.none() | data
nullable_text = st.none() | text

_STAT_FIELDS = (int64, int64, int64, int64, int32, int32, int32, int64, int32, int32, int64)
stats = st.tuples(*_STAT_FIELDS).map(Stat._make)
nodes = st.builds(Node, data, stats)
acls = st.lists(st.builds(ACL, int32, text, text), max_size=3)
identities = st.lists(st.builds(ClientInfo, text, text), max_size=3)
