"""What licences allow, by their names as they stand in rows and on hub cards.

    licence                                             class        any   research         commercial
    cc0, cc-by, cc-by-sa, mit, apache-2.0, odbl, gpl    commercial   yes   yes              yes
    cc-by-nc*, cc-by-nd*, research-only, academic       research     yes   yes              no
    all-rights-reserved, proprietary                    nothing      yes   no               no
    other, unknown, none, a name not in the table       unknown      yes   yes, and told    no

Research admits what is unknown, because many sets of the field say nothing, but `doubts` names it. No-derivatives
counts as research: rows that are cut and resampled are derivatives, which may not be passed on. Share-alike and
copyleft count as commercial. Of several licences ("cc-by, cc-by-sa"; also with and, or, brackets) the strictest counts,
as nobody knows which row has which. This sorts names; it is no legal advice, and what is heard may have a licence of
its own.
Not here: where licences are written (data_prep, the row's `license`), when a recipe is checked.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

from audiollm.conversation import Row

Use = Literal["commercial", "research", "nothing", "unknown"]
Policy = Literal["any", "research", "commercial"]
Counts = Mapping[tuple[str | None, str | None], int]
"""(license, source) -> number of rows."""

POLICIES: tuple[Policy, ...] = get_args(Policy)
MOST_TOLD = 20
"""Sources that a sentence names; of further ones it gives the number."""
LONGEST_NAME = 200
"""Characters; what is longer is the text of a licence or none, and is not searched."""

ALLOWED: Mapping[Policy, frozenset[Use]] = {
    "any": frozenset(get_args(Use)),
    "research": frozenset(("commercial", "research", "unknown")),
    "commercial": frozenset(("commercial",)),
}

TABLE: Mapping[str, Use] = {
    **dict.fromkeys(
        (
            "cc0", "public-domain", "pddl", "mit", "apache", "isc", "zlib", "unlicense", "wtfpl", "0bsd", "bsd", "bsl",
            "mpl", "epl", "eupl", "afl", "ecl", "artistic", "ms-pl", "gpl", "lgpl", "agpl", "gfdl",
            "odbl", "odc-by", "dbcl", "cdla-permissive", "cdla-sharing", "c-uda", "o-uda", "etalab",
        ),
        "commercial",
    ),
    **dict.fromkeys(
        ("research-only", "academic-only", "non-commercial", "cc-sampling+", "cc-nc-sampling+", "apple-amlr"),
        "research",
    ),
    **dict.fromkeys(("all-rights-reserved", "proprietary"), "nothing"),
    **dict.fromkeys(("unknown", "other", "none", "cc", "unspecified", "not-specified", ""), "unknown"),
}  # fmt: skip
"""Name without version -> what it allows; the Creative Commons names with by, nc, nd and sa are told by their parts."""

SPELLINGS: Mapping[str, str] = {
    "cc-0": "cc0", "cc-zero": "cc0", "cc0-universal": "cc0", "cc-public-domain": "public-domain",
    "cc-mark": "public-domain", "cc-pdm": "public-domain", "pdm": "public-domain", "pd": "public-domain",
    "gnu-gpl": "gpl", "gnu-lgpl": "lgpl", "gnu-agpl": "agpl", "gnu-fdl": "gfdl", "gnu-general-public": "gpl",
    "gnu-lesser-general-public": "lgpl", "gnu-affero-general-public": "agpl", "gnu-free-documentation": "gfdl",
    "open-database": "odbl", "odc-odbl": "odbl", "odc-pddl": "pddl", "apache-software": "apache",
    "bsd-2-clause": "bsd", "bsd-3-clause": "bsd", "bsd-3-clause-clear": "bsd", "cdla-permissive-2": "cdla-permissive",
    "odc-by-attribution": "odc-by", "unlicensed": "unknown", "na": "unknown", "n-a": "unknown", "null": "unknown",
    "no": "unknown", "mozilla-public": "mpl",
}  # fmt: skip

LONG_WORDS: Mapping[str, str] = {
    "creative-commons": "cc", "attribution": "by", "non-commercial": "nc", "noncommercial": "nc", "sharealike": "sa",
    "share-alike": "sa", "noderivatives": "nd", "noderivs": "nd", "no-derivatives": "nd", "no-derivs": "nd",
}  # fmt: skip

_FILLERS = {"license", "licence", "the", "international", "unported", "generic", "universal", "v", "version"}

_CREATIVE = re.compile(r"cc((?:-(?:by|nc|sa|nd))+)(?:-\d(?:\.\d)?(?:-(?!nc|nd)[a-z]{2}|-igo)?)?")
_VERSION = re.compile(r"-?v?\d+(?:\.\d+)*\+?(?:-or-later|-only)?$|-or-later$|\+$")
_URL = re.compile(
    r"(?:https?://)?(?:www\.)?creativecommons\.org/(?:licenses|publicdomain)/([a-z+-]+)(?:/(\d\.\d)(?:/(?!nc|nd)[a-z]{2,8})?)?"
    r"(?:/(?:deed|legalcode)[a-z._-]*)?/?"
)
_BETWEEN = re.compile(r"[,;()\[\]]|\s(?:and|or)\s", re.IGNORECASE)
_VERSION_COMMA = re.compile(r",\s*(?=v(?:ersion)?\b)", re.IGNORECASE)
_RESTRICTED = re.compile(
    r"(?:^|-)(?:(?:research|academic)(?:-use|-purposes)?-only|(?:research|academic)-use|non-?commercial|nc)(?:-|$)"
)


class Refused(NamedTuple):
    """Rows of one source under one licence."""

    license: str
    """As it stands in the rows; "unknown" where they have none."""
    source: str | None
    num_rows: int


def canonical(license: str) -> str:
    """One licence in the form of the hub's cards: "CC BY-NC 4.0" and its URL become cc-by-nc-4.0."""
    text = " ".join(license.split()).lower().removeprefix("license:").strip()
    url = _URL.fullmatch(text)
    if url:
        named = {"zero": "cc0", "mark": "public-domain"}.get(url[1], f"cc-{url[1]}")
        return "-".join(filter(None, (named, url[2])))
    text = "-".join(word.strip(".") for word in re.findall(r"[a-z0-9.+]+", text) if word not in _FILLERS)
    if re.match(r"(?:creative-commons|cc|attribution)(?:-|$)", text):
        for long, short in LONG_WORDS.items():
            text = text.replace(long, short)
        text = f"cc-{text}" if text.startswith("by-") or text == "by" else text.replace("cc-cc-", "cc-")
    return text


@lru_cache(maxsize=4096)
def _found(license: str) -> Use | None:
    """What one licence allows; None where the table does not have it."""
    if len(license) > LONGEST_NAME:
        return None
    name = canonical(license)
    creative = _CREATIVE.fullmatch(name)
    if creative:
        return "research" if {"nc", "nd"} & set(creative[1].split("-")) else "commercial"
    for known in (name, _VERSION.sub("", name) or name):
        known = SPELLINGS.get(known, known)
        if known in TABLE:
            return TABLE[known]
    return "research" if _RESTRICTED.search(name) else None


def parts_of(license: str | Sequence[str] | None) -> list[str]:
    """The licences of a field: a name, several joined by commas and the like, or a list of them as on hub cards."""
    if license is None:
        return [""]
    fields = [license] if isinstance(license, str) else [str(one) for one in license]
    parts = [part.strip() for field in fields for part in _BETWEEN.split(_VERSION_COMMA.sub(" ", field))]
    return [part for part in parts if part] or [""]


def is_known(license: str | Sequence[str] | None) -> bool:
    """Whether the table has every one of the licences; it has "unknown" and "other", too."""
    return all(_found(part) is not None for part in parts_of(license))


def use_of(license: str | Sequence[str] | None) -> Use:
    """What a licence allows; of several, the strictest: nothing, unknown, research, commercial."""
    uses = {_found(part) or "unknown" for part in parts_of(license)}
    strictness: tuple[Use, ...] = ("nothing", "unknown", "research", "commercial")
    return next(use for use in strictness if use in uses)


def allows(license: str | Sequence[str] | None, policy: Policy) -> bool:
    """Whether rows under this licence may be used; see the table at the top of this file."""
    return use_of(license) in ALLOWED[_checked(policy)]


def count(rows: Iterable[Row]) -> Counter[tuple[str | None, str | None]]:
    """How many rows each source has under each licence; memory follows their number, not that of the rows."""
    return Counter((row.license, row.source) for row in rows)


def refused(rows: Iterable[Row] | Counts, policy: Policy) -> list[Refused]:
    """What a policy does not let in: licence, source and number of rows, the most rows first."""
    _checked(policy)
    return [one for one in _listed(rows) if not allows(one.license, policy)]


def unknown(rows: Iterable[Row] | Counts) -> list[Refused]:
    """What has a licence that is unknown, whether or not it is let in."""
    return [one for one in _listed(rows) if use_of(one.license) == "unknown"]


def breach(rows: Iterable[Row] | Counts, policy: Policy) -> str | None:
    """One sentence that names what a policy does not let in, and the ways out; None where it lets in everything."""
    found = refused(rows, policy)
    if not found:
        return None
    ways = ["leave them out"]
    if any(use_of(one.license) == "unknown" for one in found):
        ways.append("write the `license` of rows whose licence you know")
    wider: Policy = "research" if all(allows(one.license, "research") for one in found) else "any"
    ways.append(f"set the policy to {wider}")
    return f"the licence policy {policy} does not allow {_told(found)}: {', or '.join(ways)}"


def doubts(rows: Iterable[Row] | Counts, policy: Policy) -> str | None:
    """One sentence that names what a policy lets in although its licence is unknown; None where there is nothing."""
    found = unknown(rows) if _checked(policy) == "research" else []
    if not found:
        return None
    return f"the licence policy {policy} lets in rows whose licence is unknown: {_told(found)}"


def _listed(rows: Iterable[Row] | Counts) -> list[Refused]:
    counts = rows if isinstance(rows, Mapping) else count(rows)
    merged: Counter[tuple[str, str | None]] = Counter()
    for (license, source), number in counts.items():
        merged[(license or "").strip() or "unknown", source] += number
    listed = [Refused(license, source, number) for (license, source), number in merged.items() if number]
    return sorted(listed, key=lambda one: (-one.num_rows, one.source or "", one.license))


def _told(found: Sequence[Refused]) -> str:
    """`clotho` (other-non-commercial, 3,839 rows), `gtzan` (unknown, 1 row) and 2 more with 30 rows."""
    named = [f"{_name(one.source)} ({_short(one.license)}, {_rows(one.num_rows)})" for one in found[:MOST_TOLD]]
    rest = found[MOST_TOLD:]
    more = f" and {len(rest)} more with {_rows(sum(one.num_rows for one in rest))}" if rest else ""
    return ", ".join(named) + more


def _name(source: str | None) -> str:
    return f"`{_short(source)}`" if source else "rows without a `source`"


def _short(text: str) -> str:
    """On one line and not too long: these are words out of files."""
    plain = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return plain if len(plain) <= 80 else f"{plain[:80]}..."


def _rows(number: int) -> str:
    return f"{number:,} row{'' if number == 1 else 's'}"


def _checked(policy: Policy) -> Policy:
    if policy not in POLICIES:
        raise ValueError(f"{policy!r} is not a licence policy; known: {', '.join(POLICIES)}")
    return policy
