"""How each task is asked: in training and in the first test, and in ways that no training row has.

{} stands where the thing asked for goes. A question is drawn from these whatever its answer is.
"""

Phrasings = dict[str, tuple[str, ...]]

PHRASINGS: Phrasings = {
    "transcribe": (
        "What is said?",
        "Write down the words.",
        "Transcribe the speech.",
        "Which words are spoken?",
        "What does the speaker say?",
    ),
    "describe": (
        "Describe the clip.",
        "What do you hear?",
        "Describe what you hear.",
        "What is going on here?",
        "Tell me about this recording.",
    ),
    "event": (
        "Which sounds are there?",
        "List the sounds in order.",
        "Name every sound you hear.",
        "What sounds occur?",
        "Which sounds can be heard?",
    ),
    "existence": (
        "Is there {}?",
        "Do you hear {}?",
        "Can you hear {}?",
        "Does the clip contain {}?",
        "Is {} in the recording?",
    ),
    "count": (
        "How many sounds are there?",
        "How many sounds do you hear?",
        "Count the sounds.",
        "How many different sounds occur?",
        "What is the number of sounds?",
    ),
    "order": (
        "Which sound comes {}?",
        "Which sound is {}?",
        "What do you hear {}?",
        "What comes {}?",
        "Name the sound that comes {}.",
    ),
    "kind": (
        "Is this sound, speech or music?",
        "What kind of clip is this?",
        "Speech, music or sound?",
        "What type of audio is it?",
        "Which kind of audio do you hear?",
    ),
    "gender": (
        "Is the speaker a man or a woman?",
        "Who is speaking?",
        "Is it a woman or a man?",
        "Man or woman?",
        "Who speaks, a woman or a man?",
    ),
    "word": (
        "Is the word {} spoken?",
        "Do you hear the word {}?",
        "Does the speaker say {}?",
        "Is {} one of the words?",
        "Is the word {} said?",
    ),
    "instrument": (
        "Which instrument is playing?",
        "What instrument do you hear?",
        "Name the instrument.",
        "Which instrument is it?",
        "What plays the melody?",
    ),
    "tempo": (
        "Is the music fast or slow?",
        "How fast is the melody?",
        "Slow or fast?",
        "What is the tempo?",
        "Is it slow or fast music?",
    ),
}

AUXILIARY: Phrasings = {"after": ("What comes after {}?", "What follows {}?", "What is right after {}?")}
"""Asked of scenes told in words, and only on demand: exercises in finding a word in a row."""

OTHER_PHRASINGS: Phrasings = {
    "transcribe": ("Give me the exact words.", "Please type what the person said.", "What was spoken in this clip?"),
    "describe": ("Summarise the recording.", "What happens in this audio?", "Say in a few words what this is."),
    "event": ("What are the sounds in this clip?", "Tell me all sounds, one by one.", "Which noises did you notice?"),
    "existence": ("Would you say there is {} here?", "Did {} occur?", "Is it true that one hears {}?"),
    "count": ("Tell me how many sounds occur.", "Give the number of sounds.", "How many noises did you notice?"),
    "order": ("Tell me which sound was {}.", "What did you hear {}?", "Of all the sounds, which was {}?"),
    "kind": ("Did you hear speech, sound or music?", "Name the kind of recording.", "Say what type of clip it is."),
    "gender": ("Did a man or a woman speak?", "Tell me who is talking.", "Is that person a woman or a man?"),
    "word": ("Did anyone say {}?", "Is it true that {} was spoken?", "Was the word {} used?"),
    "instrument": ("What is it played on?", "Tell me the instrument.", "Can you name what is playing?"),
    "tempo": ("Would you call it slow or fast?", "Tell me the tempo.", "Was it played fast or slow?"),
}

TASKS = tuple(PHRASINGS)
