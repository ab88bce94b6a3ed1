"""Common Voice: sentences that volunteers read aloud in over 100 languages; their sex, age and accent, if they tell.

{"client_id": "5f1a", "path": "common_voice_en_1.mp3", "sentence": '"Yes" was all she said.', "up_votes": "2",
 "down_votes": "0", "age": "fourties", "gender": "female_feminine", "accents": "India and South Asia", "variant": "",
 "locale": "en", "segment": "", "audio": AUDIO}
{"client_id": "7", "path": "common_voice_en_2.mp3", "sentence": "He came home.", "up_votes": "3", "down_votes": "1",
 "age": "", "gender": "", "accents": "", "variant": "", "locale": "en", "segment": "", "audio": AUDIO}
"""

from collections.abc import Iterator
from typing import Any, Literal

from audiollm.curation.archives import Archive
from audiollm.curation.dataset import Ask, DataSet, Draw, Item

Task = Literal["asr", "gender", "age", "accent", "language_id"]
TASKS: tuple[Task, ...] = ("asr", "gender", "age", "accent", "language_id")
SET = DataSet(
    title="Common Voice: sentences read aloud in over 100 languages",
    license="cc0-1.0",
    tasks=TASKS,
    columns=("path", "sentence", "audio"),
    splits={"train": ["train"], "validation": ["dev"], "test": ["test"]},
    original="the unpacked release of one or more languages: en/train.tsv, en/dev.tsv, en/test.tsv and en/clips/",
    citation="Ardila et al., Common Voice: A Massively-Multilingual Speech Corpus, 2020",
)
NAMES = (
    "af Afrikaans,am Amharic,ar Arabic,az Azerbaijani,ba Bashkir,be Belarusian,bg Bulgarian,bn Bengali,br Breton,"
    "ca Catalan,ckb Central Kurdish,cs Czech,cv Chuvash,cy Welsh,da Danish,de German,el Greek,en English,eo Esperanto,"
    "es Spanish,et Estonian,eu Basque,fa Persian,fi Finnish,fr French,fy-NL Frisian,ga-IE Irish,gl Galician,gn Guarani,"
    "ha Hausa,hi Hindi,hu Hungarian,hy-AM Armenian,id Indonesian,ig Igbo,it Italian,ja Japanese,ka Georgian,kab Kabyle,"
    "kk Kazakh,kmr Northern Kurdish,ko Korean,ky Kyrgyz,lg Luganda,lt Lithuanian,lv Latvian,mk Macedonian,ml Malayalam,"
    "mn Mongolian,mr Marathi,mt Maltese,ne-NP Nepali,nl Dutch,or Odia,pa-IN Punjabi,pl Polish,ps Pashto,pt Portuguese,"
    "ro Romanian,ru Russian,rw Kinyarwanda,sk Slovak,sl Slovenian,sq Albanian,sr Serbian,sv-SE Swedish,sw Swahili,"
    "ta Tamil,te Telugu,th Thai,tr Turkish,tt Tatar,ug Uyghur,uk Ukrainian,ur Urdu,uz Uzbek,vi Vietnamese,yo Yoruba,"
    "yue Cantonese,zh-CN Chinese,zh-HK Cantonese,zh-TW Chinese,he Hebrew,is Icelandic,as Assamese"
)
LANGUAGES = {locale: name for locale, _, name in (each.partition(" ") for each in NAMES.split(","))}
GENDERS = {"male": "male", "male_masculine": "male", "female": "female", "female_feminine": "female"}


def read(archive: Archive, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows of train.tsv, dev.tsv or test.tsv of every language that is there."""
    name = f"{SET.splits[split][0]}.tsv"
    for path in archive.find_all(name, f"*/{name}", f"*/*/{name}"):
        folder = path.parent.relative_to(archive.folder)
        for place, row in archive.table(str(folder / name), delimiter="\t", quotes=False, needs=("path", "sentence")):
            locale = row.get("locale") or path.resolve().parent.name  # releases before the fifth do not have it
            yield place, row | {"locale": locale, "audio": archive.recording(str(folder), "clips", row["path"])}


def convert(row: dict[str, Any], draw: Draw, *, tasks: tuple[Task, ...] = TASKS) -> Item:
    """The sentence, and what is known of who reads it; the question for the sentence names the language by turns."""
    language, accent = LANGUAGES.get(row["locale"], ""), row.get("accents") or row.get("accent") or ""
    pool = draw.choice(("asr", "asr_language")) if language else "asr"
    told = {
        "asr": row["sentence"],
        "gender": GENDERS.get(row.get("gender") or "", ""),
        "age": (row.get("age") or "").replace("fourties", "forties"),
        "accent": "" if accent == "other" or "|" in accent else accent,
        "language_id": language,
    }
    asks = [
        Ask(task, draw.phrase(pool if task == "asr" else task, language=language), told[task], language=row["locale"])
        for task in tasks
        if told[task]
    ]
    return Item(row["audio"], row["path"], asks, transcript=row["sentence"])
