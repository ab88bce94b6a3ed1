"""Names of licences are told apart however they are spelled, and a policy lets in what it says."""

import pytest

from audiollm.conversation import Message, Row, TextPart
from audiollm.curation.catalogue import catalogue
from audiollm.data.licences import (
    MOST_TOLD,
    POLICIES,
    TABLE,
    allows,
    breach,
    canonical,
    count,
    doubts,
    is_known,
    refused,
    unknown,
    use_of,
)
from audiollm.resources import import_converter

COMMERCIAL = [
    "cc0-1.0", "CC0", "cc-zero", "CC0 1.0 Universal", "https://creativecommons.org/publicdomain/zero/1.0/",
    "http://creativecommons.org/publicdomain/mark/1.0", "public-domain", "Public Domain", "pddl",
    "cc-by-4.0", "CC-BY-4.0", "CC BY 4.0", "cc by", "cc_by_4.0", "license:cc-by-4.0", "cc-by-2.0-uk", "cc-by-3.0-igo",
    "Creative Commons Attribution 4.0 International", "Attribution 4.0 International (CC BY 4.0)",
    "cc-by-sa-4.0", "CC BY-SA 3.0", "cc-by-sa-3.0-us", "https://creativecommons.org/licenses/by-sa/4.0/legalcode",
    "http://www.creativecommons.org/licenses/by/3.0/deed.de", "creativecommons.org/licenses/by/4.0", "cc-by, cc-by-sa",
    "mit", "MIT License", "The MIT License", "apache-2.0", "Apache 2.0", "Apache License, Version 2.0", "bsd-3-clause",
    "odbl", "ODbL-1.0", "odc-by", "gpl-3.0", "GPLv3", "GPL-3.0-or-later", "gpl-3.0-only", "gpl-3.0+", "lgpl-2.1",
    "GNU GPL v3",
    "GNU Lesser General Public License v2.1", "MIT OR Apache-2.0",
    "cdla-sharing-1.0", "CDLA-Permissive-2.0", "mpl-2.0", "c-uda", "etalab-2.0",
]  # fmt: skip
RESEARCH = [
    "cc-by-nc-4.0", "CC BY-NC 4.0", "cc-by-nc-2.0", "CC_BY_NC", "cc-by-nc-sa-4.0", "CC BY-NC-SA 4.0", "cc-by-nc-nd-4.0",
    "cc-by-nd-4.0", "cc-by-nd", "cc-nc-1.0", "cc-by-nc-sa-3.0-igo", "http://creativecommons.org/licenses/by-nc/3.0/",
    "https://creativecommons.org/licenses/by-nc-sa/4.0/deed.en", "https://creativecommons.org/licenses/by-nd/4.0",
    "Creative Commons Attribution-NonCommercial 4.0", "Creative Commons Attribution Non Commercial Share Alike 4.0",
    "Attribution-NonCommercial-NoDerivatives 4.0 International", "cc-sampling+-1.0",
    "http://creativecommons.org/licenses/sampling+/1.0/", "research-only", "non-commercial-research", "non-commercial",
    "other-non-commercial", "noncommercial", "cc-by-4.0-academic-use-only", "academic use only",
    "for research use only", "CC BY 4.0 (non-commercial)", "MIT OR CC-BY-NC-4.0", "cc-by-nc-4.0.",
    "cc-by-4.0-non-commercial", "CC BY 4.0 NC", "cc-by-4.0, cc-by-nc-4.0", "mit,research-only",
]  # fmt: skip
UNKNOWN = [
    None, "", "  ", ",", "unknown", "other", "none", "cc", "cc-bye-4.0", "mitt", "mit-like", "apache-2.0, foo",
    "https://example.com/licenses/by/4.0/", "https://example.com/creativecommons.org/licenses/by/4.0/",
    "4.0", "by nature", "cc-by-not", "1." * 50_000 + "x", "cc" + "-by" * 100, "cc-by-4.0-nd",
    "cc-by-nc-4.0, unknown",
    "cc-by-4.0 except clips", "https://creativecommons.org/licenses/by/4.0/ but not for sale", "MIT (see file)",
]  # fmt: skip
NOTHING = ["all-rights-reserved", "All rights reserved", "proprietary", "cc-by-4.0, proprietary"]
USES = {"commercial": COMMERCIAL, "research": RESEARCH, "unknown": UNKNOWN, "nothing": NOTHING}


def row(license, source="set"):
    return Row((Message("assistant", (TextPart("yes"),)),), license=license, source=source)


@pytest.mark.parametrize(("use", "name"), [(use, name) for use, names in USES.items() for name in names])
def test_a_name_allows_what_its_licence_does(use, name):
    assert use_of(name) == use


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("CC BY-NC 4.0", "cc-by-nc-4.0"),
        ("CC-BY-4.0", "cc-by-4.0"),
        ("https://creativecommons.org/licenses/by-nc-sa/3.0/", "cc-by-nc-sa-3.0"),
        ("http://creativecommons.org/publicdomain/zero/1.0/", "cc0-1.0"),
        ("Creative Commons Attribution-ShareAlike 4.0 International", "cc-by-sa-4.0"),
        ("Apache License, Version 2.0", "apache-2.0"),
        ("MIT License", "mit"),
    ],
)
def test_spellings_have_one_form(written, name):
    assert canonical(written) == name and canonical(name) == name


def test_each_policy_lets_in_what_the_table_says():
    allowed = {policy: {use for use, names in USES.items() if allows(names[0], policy)} for policy in POLICIES}
    assert allowed == {
        "any": {"commercial", "research", "unknown", "nothing"},
        "research": {"commercial", "research", "unknown"},
        "commercial": {"commercial"},
    }


def test_a_stricter_policy_never_lets_in_more():
    for name in (name for names in USES.values() for name in names):
        assert allows(name, "commercial") <= allows(name, "research") <= allows(name, "any")


@pytest.mark.parametrize("harsher", ["research-only", "unknown", "proprietary"])
def test_the_strictest_of_several_counts_in_whatever_order(harsher):
    for several in (f"mit, {harsher}", f"{harsher},mit", ["mit", harsher], (harsher, "mit")):
        assert use_of(several) == use_of(harsher)


def test_every_converter_has_a_licence_that_the_table_knows():
    licences = {name: told["license"] for name, told in catalogue().items()}
    assert len(licences) > 30
    assert {name: license for name, license in licences.items() if not is_known(license)} == {}
    expected = {
        "gtzan": "unknown", "iemocap": "unknown", "wavcaps": "research", "peoples_speech": "commercial",
        "lp_musiccaps": "research", "clotho_aqa": "research", "musicqa": "research", "meld": "unknown",
        "fsd50k": "unknown", "tacos": "unknown", "slurp": "research", "librispeech": "commercial",
    }  # fmt: skip
    assert {name: use_of(licences[name]) for name in expected} == expected


@pytest.mark.parametrize("licence", ["by/4.0", "by-nc/3.0", "sampling+/1.0", "by-nc-nd/2.5"])
def test_licences_of_single_clips_are_known(licence):
    written = import_converter("fsd50k").license_of(f"http://creativecommons.org/licenses/{licence}/")
    assert is_known(written) and use_of(written) == ("commercial" if licence == "by/4.0" else "research")


def test_every_name_of_the_table_is_found_under_its_own_name():
    for name, use in TABLE.items():
        assert use_of(name) == use and is_known(name), name
    assert not is_known("mitt") and not is_known("4.0") and not is_known("mit, mitt")


def test_what_is_refused_is_counted_by_licence_and_source_the_most_rows_first():
    rows = [row("mit", "a"), *[row("cc-by-nc-4.0", "b")] * 3, row(None, "a"), row("", "a"), *[row("other", None)] * 5]
    found = [("other", None, 5), ("cc-by-nc-4.0", "b", 3), ("unknown", "a", 2)]
    assert refused(iter(rows), "commercial") == refused(count(rows), "commercial") == found
    assert refused(rows, "research") == refused(rows, "any") == []
    assert unknown(rows) == [("other", None, 5), ("unknown", "a", 2)]


def test_a_breach_is_one_sentence_with_the_names_and_the_way_out():
    counts = {("cc-by-nc-4.0", "slurp"): 1200, ("mit", "clotho_aqa"): 9, (None, "gtzan"): 1}
    assert breach(counts, "commercial") == (
        "the licence policy commercial does not allow `slurp` (cc-by-nc-4.0, 1,200 rows), `gtzan` (unknown, 1 row): "
        "leave them out, or write the `license` of rows whose licence you know, or set the policy to research"
    )
    assert breach(counts, "research") is breach(counts, "any") is None
    told = breach({("proprietary", "shop"): 2}, "research")
    assert told is not None and told.endswith("set the policy to any")


def test_research_names_what_is_unknown():
    counts = {("other", "iemocap"): 4, ("mit", "clotho_aqa"): 9}
    assert doubts(counts, "research") == (
        "the licence policy research lets in rows whose licence is unknown: `iemocap` (other, 4 rows)"
    )
    assert doubts(counts, "any") is doubts(counts, "commercial") is doubts({("mit", "a"): 1}, "research") is None


def test_a_sentence_stays_one_however_many_sources_and_whatever_their_names():
    counts = {("x\ny\x1b[31m" + "z" * 500, f"set\n{number:03}"): number for number in range(1, 31)}
    told = breach(counts, "commercial")
    assert told is not None and told.isprintable() and len(told) < 200 * MOST_TOLD
    assert told.count("`set ") == MOST_TOLD
    assert f"and 10 more with {sum(range(1, 11))} rows" in told


def test_a_policy_that_does_not_exist_is_refused():
    for wrong in (lambda: allows("mit", "comercial"), lambda: refused({}, "nc"), lambda: doubts({}, "")):
        with pytest.raises(ValueError, match="is not a licence policy; known: any, research, commercial"):
            wrong()
