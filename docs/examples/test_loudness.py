"""The example's own tests, as docs/writing_a_part.md shows them."""

from loudness import EveryOther, LoudnessEncoder

# --8<-- [start:checks]
from audiollm.models.testing import check_connector, check_encoder


def test_my_encoder():
    check_encoder(LoudnessEncoder, {"hidden_size": 16})


def test_my_connector():
    check_connector(EveryOther, {"every": 3})


# --8<-- [end:checks]
