"""Whether a text tells that its writer had words about a recording before it, and no sound.

"According to the caption, a dog barks" was written by somebody who did not listen; "she reads the caption aloud" tells
of what is heard. English alone. How well they are told apart is measured on the cases of tests/data/leaks.jsonl.
Not here: what is done with such an answer (generate.py).
"""

import re

THE = r"(?:the|this|these|its|your|both|(?:all of |both of )the)"
KIND = r"(?:(?:audio|sound|scene|text|textual|written|transcribed|given|provided|supplied|above|original|short) )*"
# What is hardly ever heard in a recording, and what is heard in some: a text is read aloud, a label stuck on.
SURE = r"(?:captions?|descriptions?|transcripts?|transcriptions?|metadata|annotations?)"
UNSURE = r"(?:text|labels?|tags|passage|prompt|summary)"
SOUND = r"(?:audio|recording|clip|sound|scene|track|file)"
NOT_OF = rf"\b(?! (?:of (?!the {SOUND}\b)|on (?:the|a|an)\b|message\b|contest\b))"
OF_IT = rf"(?: (?:of|for) (?:the|this) {SOUND})?"
GIVEN = r"(?:given|provided|supplied|written|above)"
CLAUSE = r"(?:(?:^|[.;:,!?(]\s*)(?:(?:but|since|because|as|and|so|while|though|although|however,?|yet) )?|"
CLAUSE += r"\b(?:but|since|because|as|though|although|what) )(?:\w+ly,? )?"
NOT = r"(?:(?:does not|doesn't|do not|don't|did not|didn't|only|also|just|merely|clearly|explicitly) )*"
TELLS = r"(?:says?|tells?|states?|mentions?|describes?|indicates?|notes?|suggests?|specif(?:y|ies)|"
TELLS += r"lists?|refers?|impl(?:y|ies)|reports?|points? (?:to|out)|reveals?)"
AFTER_SURE = rf"(?:,|{NOT}{TELLS}\b|\w+s\b|(?:did|had|agree|give|make|do|have|were|are)\b)"
SAID = r"(?:said|says|stated|mentioned|described|noted|indicated|specified|written|given|provided|listed|shown|told)"
FROM = r"(?:according to|per|based (?:\w+ )?on|judging (?:from|by)|going by|rel(?:y|ies|ying) (?:\w+ )?on|considering"
FROM += r"|(?:inferred|determined|derived|concluded|deduced|known|clear|evident|apparent|tell) from)"
LEAKS = re.compile(
    "|".join(
        (
            rf"\b{FROM} {THE} {KIND}(?:{SURE}|{UNSURE}){NOT_OF}",
            rf"(?<!read )(?<!reads )(?<!reading )\b(?:from|in|given) {THE} {KIND}{SURE}{NOT_OF}",
            rf"{CLAUSE}(?:from|in|given) {THE} {KIND}(?:text|labels?|tags){NOT_OF}",
            # the description of the recording mentions; but the caption gives no hint; the tags indicate
            rf"{CLAUSE}{THE} {KIND}{SURE}{OF_IT}(?: (?:you|that was|which was) {GIVEN}| {GIVEN})? ?{AFTER_SURE}",
            rf"{CLAUSE}{THE} {KIND}(?:{SURE}|{UNSURE}){OF_IT} {NOT}{TELLS}\b",
            rf"\b(?:do|does|did) {THE} {KIND}(?:{SURE}{OF_IT} (?!of )\w+|{UNSURE} {NOT}{TELLS})\b",
            rf"{CLAUSE}{THE} {KIND}(?:text|transcript|transcription) reads\b",
            rf"\b{SAID} (?:in|by) {THE} {KIND}(?:{SURE}|{UNSURE}){NOT_OF}",
            # the provided text; the transcript provided; based on what is written; a text description
            rf"\b{THE} {GIVEN} {KIND}(?:{SURE}|{UNSURE}|information|details?|words)\b",
            rf"\b{THE} (?:{SURE}|{UNSURE}|information|details?) (?:{GIVEN}|you (?:gave|provided))\b",
            rf"\b(?:based (?:\w+ )?on|according to|from|judging by) what (?:is|was|has been) {GIVEN}\b",
            r"\b(?:based (?:\w+ )?on|according to) the (?:information|details)\b(?! (?:desk|of))",
            rf"\bno {KIND}{SURE} (?:is|was|has been|were|are) {GIVEN}\b",
            rf"\bI (?:do not|don't) have access to (?:the |this )?(?:actual )?{SOUND}\b",
            rf"\bas (?:you |one |we )?can (?:be )?(?:read|seen?|heard) (?:in|from) {THE} {KIND}(?:{SURE}|{UNSURE})\b",
            r"^as (?:described|noted|stated|mentioned|specified|indicated)(?: above)?,",
            r"\b(?:text|textual) descriptions?\b",
            rf"\b(?:without (?:hearing|listening to|access to)|I (?:cannot|can't|am (?:unable|not able) to) "
            rf"(?:\w+ly )?(?:hear|listen to|access)) (?:the |this |any )?(?:actual )?{SOUND}\b",
        )
    ),
    re.IGNORECASE,
)


# As the subject of a clause or after a preposition; what stands after a verb is a thing in the recording.
MENTIONED = re.compile(
    rf"(?:^|[,;:(]\s*|\b(?:in|from|to|of|by|per|with|on|if|whether|since|because|as|but|and|than|which|what|that|where|"
    rf"how|also|so|while|does|do|did) ){THE} {KIND}{SURE}{NOT_OF}|\bin {THE} {KIND}text{NOT_OF}",
    re.IGNORECASE,
)
# Somebody in the recording has to do with a caption or a transcript.
ACTS = re.compile(
    r"\b(?:read|say|ask|tell|want|order|argue|explain|repeat|translat|writ|wrote|quot|compar|mention|discuss|talk|"
    r"dictat|add|giv|gave|recommend|request|check|correct|sign|print|hand|show|prais|complain|hold|think|thought|"
    r"claim|insist|demand|offer|send|sent|speak(?:s|ing) (?:of|about)|spoke|learn|find|found|look|need|"
    r"describ(?:es|ing))\w*\b|"
    r"\baccording to the (?!caption|descr|transcr)",
    re.IGNORECASE,
)


def leaks(text: str) -> bool:
    """Whether a text tells that its writer had words before it, and no sound ("according to the caption").

    The caption, the description or the transcript is one of these words, unless somebody reads it, asks for it ...
    """
    text = text.replace("’", "'")
    if LEAKS.search(text):
        return True
    sentences = re.split(r"(?<=[.!?])\s+", text)
    return any((found := MENTIONED.search(one)) and not ACTS.search(one[: found.start()]) for one in sentences)
