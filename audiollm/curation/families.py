"""Families of sounds of AudioSet's ontology, which FSD50K has too: what may be denied, and what is like it.

Tags are not complete: a clip with "Animal" or with "Bark" alone may well hold a dog. Not here: how it is asked
(instructions.py).
"""

from collections.abc import Sequence

FAMILIES = (
    ("animal pet livestock fowl canidae cattle moo pig oink chicken cluck crow rodent bird chirp insect", {
        "dog": "dog canidae bark bow-wow yip growl howl whimper", "cat": "cat meow purr hiss roar growl",
        "horse": "horse neigh clip-clop", "sheep": "sheep goat bleat", "frog": "frog croak", "owl": "owl hoot bird",
    }),
    ("music instrument orchestra band string drum horn song sing", {
        "piano": "piano keyboard organ orchestra", "guitar": "guitar string strum band",
        "trumpet": "trumpet brass horn orchestra band", "harp": "harp string orchestra",
        "accordion": "accordion keyboard",
    }),
    ("vehicle motor engine road traffic truck bus aircraft plane boat siren horn", {
        "car": "car motor vehicle engine road traffic truck bus siren horn skid",
        "train": "train rail subway horn", "helicopter": "helicopter aircraft plane propeller",
        "motorcycle": "motor vehicle engine idling accelerat",
    }),
    ("alarm bell emergency telephone ring beep buzz ding chime horn clock", {
        "siren": "siren emergency alarm", "church bell": "church bell ring chime",
        "doorbell": "doorbell ding bell ring chime buzz",
    }),
    ("human throat breath sneez wail crowd cheer child", {
        "cough": "cough throat", "snoring": "snor breath", "baby cry or infant cry": "baby infant cry sob wail child",
        "applause": "applause clap crowd cheer",
    }),
    ("tool drill wood chop engine thump bang tap knock domestic", {
        "chainsaw": "saw engine tool", "hammer": "hammer bang thump tap knock tool",
    }),
    ("water liquid sink domestic", {
        "toilet flush": "toilet water", "vacuum cleaner": "vacuum", "typewriter": "typ keyboard",
    }),
    ("boom burst rain weather", {
        "fireworks": "fire explo boom bang burst", "gunshot or gunfire": "gun fire explo boom bang burst",
        "thunder": "thunder storm explo boom",
    }),
    ("", {
        "speech": "speech speak voice talk convers narrat human man child baby babbl sing song choir chant rap crowd "
        "shout yell scream whisper laugh giggl chuckl chatter hubbub television radio",
    }),
    ("", {
        "music": "music instrument piano organ keyboard guitar string drum brass trumpet horn harp accordion song "
        "sing choir rap band orchestra violin cello flute saxophone percussion beat bell chime jazz techno disco funk "
        "reggae opera dubstep electronica blues television radio",
    }),
    ("", {
        "vehicle": "vehicle car truck bus motor engine road traffic rail train subway aircraft plane helicopter "
        "propeller boat ship siren horn skid skateboard bicycle idling accelerat",
    }),
)  # fmt: skip
"""Words of wider and of other tags, and the sounds that may be denied, each with the words that may mean it."""
COMMON = ("speech", "music", "vehicle", "guitar", "car", "dog")
"""The commonest of these in the whole set, by order of magnitude and not counted: speech and music are in about half of
its two million clips each."""
KINDS = {
    "animal": ("dog", "cat", "insect", "frog"),
    "human voice": ("speech", "singing", "laughter", "crying and sobbing"),
    "music,musical instrument": ("guitar", "piano", "trumpet", "accordion", "harp"),
    "vehicle,engine": ("car", "bus", "motorcycle", "train", "aircraft", "boat and water vehicle"),
    "water": ("ocean", "stream"),
    "domestic sounds and home sounds": ("door", "typing", "toilet flush", "zipper (clothing)", "microwave oven"),
    "explosion": ("gunshot and gunfire", "fireworks"),
    "tools": ("hammer", "sawing", "drill"),
}
"""The same for FSD50K: wider labels, which the clips of narrower ones have too, and sounds that may be denied."""


def deniable(tags: Sequence[str]) -> tuple[list[str], list[str]]:
    """Sounds that no tag may mean; and those of them of a family of which another is tagged by its own name."""
    heard = " ".join(tags).lower()
    absent: list[str] = []
    alike: list[str] = []
    for wide, members in FAMILIES:
        silent = [one for one, words in members.items() if not any(word in heard for word in words.split())]
        if not members.keys().isdisjoint(tags):
            alike += silent
        elif len(silent) == len(members) and not any(word in heard for word in wide.split()):
            absent += silent
    return absent + alike, alike
