"""English sentences of 4-9 words that express an emotion, only its valence, or nothing: the texts of the synthetic corpora.

A sentence is a frame filled with a topic and one of the words of the frame. Every topic occurs with every emotion, so topics are not
informative. There are 24 topics and about 30 pairs of frame and word per emotion, so most sentences of a test split are in no other split.
"""

import numpy as np

Frames = tuple[tuple[str, tuple[str, ...]], ...]  # sentences with places for a topic and a word, and the words

TOPICS = (
    "the trip to the coast", "the new office", "the phone call", "our dinner", "the garden project", "the school concert", "her letter",
    "the apartment", "the bus ride", "my brother's car", "his answer", "the game last night", "the job interview", "the hotel room",
    "the meeting on Friday", "my sister's wedding", "the doctor's report", "the restaurant", "the boat ride", "the birthday party",
    "the movie", "the package", "the hospital", "the soccer team",
)  # fmt: skip

# Words specific to an emotion. {t} is the topic, {w} the word.
OWN: dict[str, Frames] = {
    "happy": (
        ("I am so {w} about {t}", ("happy", "glad", "delighted", "thrilled", "proud", "pleased", "cheerful")),
        ("{t} made me {w}", ("so happy", "smile all day", "laugh with joy", "feel so proud", "very cheerful")),
        ("I love {t}, it was {w}", ("wonderful", "beautiful", "so much fun", "a real joy", "delightful", "a pleasure")),
        ("We celebrated {t} with {w}", ("joy and laughter", "all our friends", "happy songs", "a big smile", "love")),
        ("{t} was a real {w} for us", ("joy", "delight", "gift", "pleasure", "blessing")),
        ("I enjoyed {t} and felt {w}", ("happy", "proud", "wonderful", "cheerful", "delighted")),
    ),
    "sad": (
        ("I am so {w} about {t}", ("sad", "unhappy", "miserable", "heartbroken", "depressed", "lonely")),
        ("{t} made me {w}", ("so sad", "cry all night", "cry for hours", "feel so lonely", "miss my mother", "very unhappy")),
        ("I miss {t} and feel {w}", ("sad", "lonely", "empty", "miserable", "heartbroken", "so alone")),
        ("After {t} I {w}", ("sat alone and cried", "cried in bed", "felt sad and lonely", "cried with grief")),
        ("I was in {w} because of {t}", ("tears", "grief", "sorrow", "despair")),
        ("There is only {w} left after {t}", ("sadness", "sorrow", "grief", "loneliness", "pain")),
    ),
    "anger": (
        ("I am so {w} about {t}", ("angry", "mad", "furious", "annoyed", "outraged")),
        ("{t} makes me {w}", ("furious", "so angry", "so mad", "scream with rage", "want to fight", "very angry")),
        ("I hate how they {w} {t}", ("ruined", "cheated on", "lied about", "destroyed", "stole")),
        ("How dare they {w} {t}", ("cancel", "ruin", "steal", "lie about", "destroy")),
        ("Stop {w} about {t} right now", ("lying", "shouting", "arguing", "yelling")),
        ("I hate {t} and I am {w}", ("furious", "angry", "mad at you", "outraged")),
    ),
    "surprise": (
        ("I was {w} by {t}", ("amazed", "astonished", "stunned", "surprised", "completely surprised", "startled")),
        ("Wow, {t} {w}", ("came out of nowhere", "appeared so suddenly", "was totally unexpected", "surprised us all")),
        ("{t} was a complete {w}", ("surprise", "shock", "mystery", "surprise to me")),
        ("I never {w} {t} like this", ("expected", "imagined", "predicted", "saw")),
        ("Suddenly {t} {w}", ("surprised everyone", "came out of nowhere", "was there, so unexpected", "astonished us")),
        ("Wow, I {w} {t}", ("never expected", "had no idea about", "am astonished by", "am so surprised by")),
    ),
    "fear": (
        ("I am so {w} of {t}", ("afraid", "scared", "terrified", "frightened")),
        ("{t} gives me {w}", ("nightmares", "panic attacks", "a terrible fear", "such a scare", "a feeling of danger")),
        ("I was {w} before {t}", ("shaking with fear", "trembling with fear", "too scared to sleep", "in a panic", "so frightened")),
        ("Please help me, {t} is {w}", ("dangerous", "not safe", "so scary", "a danger to us")),
        ("I {w} that {t} will hurt us", ("fear", "am afraid", "am terrified", "am scared")),
        ("Something {w} is hiding near {t}", ("dangerous", "scary", "deadly", "frightening")),
    ),
    "disgust": (
        ("{t} was so {w}", ("disgusting and dirty", "gross and sticky", "nasty and sour", "dirty and wet", "rotten and gross")),
        ("I felt {w} after {t}", ("sick to my stomach", "like throwing up", "dirty and gross", "sick and disgusted")),
        ("The {w} of {t} was disgusting", ("smell", "stink", "taste", "dirt")),
        ("Yuck, {t} is {w}", ("covered in dirt", "covered in slime", "full of garbage", "so gross", "disgusting")),
        ("{t} smelled like {w}", ("rotten eggs", "dirty socks", "rotten garbage", "sour milk", "vomit")),
        ("I find {t} {w}", ("disgusting", "gross", "nasty", "sickening", "really gross")),
    ),
    "contempt": (
        ("{t} is {w}", ("beneath me", "a joke to me", "pathetic and stupid", "for losers", "so pathetic")),
        ("Only {w} would care about {t}", ("a fool", "an idiot", "losers", "stupid people")),
        ("They are too {w} for {t}", ("stupid", "lazy", "pathetic", "weak", "ignorant")),
        ("I have no {w} for {t}", ("respect", "regard", "respect at all", "use at all")),
        ("Oh please, {t} is {w}", ("a stupid joke", "worthless", "pathetic", "ridiculous")),
        ("What {w} idea {t} was", ("a stupid", "a pathetic", "an ignorant", "a ridiculous")),
    ),
}

# Words that express only the valence: several emotions share them, so that only the voice tells them apart.
SHARED: dict[str, Frames] = {
    "positive": (
        ("{t} was {w}", ("incredible from start to finish", "great for everyone", "very special this year", "better than ever")),
        ("That was {w} about {t}", ("something special", "an amazing thing", "really good news", "the great thing")),
        ("I must say {t} was {w}", ("good", "great", "nice", "special")),
        ("{t} turned out {w}", ("amazing", "really great", "so well", "even better")),
        ("What {w} news about {t}", ("great", "amazing", "good", "incredible")),
    ),
    "negative": (
        ("{t} was {w} for everyone", ("a terrible experience", "awful", "a very bad time", "horrible", "a disaster")),
        ("Nothing about {t} was {w}", ("any good", "right", "acceptable", "as it should be")),
        ("I wish {t} had {w}", ("never happened", "not been so bad", "been over sooner", "gone some other way")),
        ("{t} went {w}", ("badly from the beginning", "wrong once again", "from bad to worse", "terribly for all of us")),
        ("I cannot {w} {t} anymore", ("stand", "bear", "take", "face")),
        ("What {w} news about {t}", ("terrible", "awful", "bad", "horrible")),
    ),
}
VALENCE = {"happy": "positive", "surprise": "positive"}  # every other emotion is negative

NEUTRAL: Frames = (
    ("I {w} about {t} this morning", ("read", "heard", "talked", "thought", "wrote")),
    ("We {w} {t} after lunch", ("discussed", "looked at", "talked about", "went over")),
    ("{t} is on the {w}", ("list for Monday", "calendar for June", "second page", "other side of town")),
    ("They told me about {t} {w}", ("yesterday", "on Tuesday", "last week", "at work")),
    ("{w} asked me about {t}", ("Someone", "My teacher", "A colleague", "The driver")),
    ("I will look at {t} {w}", ("later", "on Thursday", "next week", "this afternoon")),
    ("She {w} about {t}", ("wrote a short note", "sent two emails", "gave a talk", "made a list")),
    ("{t} {w}", ("was moved to March", "took about an hour", "came up again today", "is part of the plan")),
    ("You can {w} {t} here", ("ask about", "find out about", "read about", "look for")),
    ("{t} was mentioned {w}", ("on the radio", "in the newspaper", "at the office", "by two people")),
    ("There is a {w} about {t}", ("sign", "page", "short report", "book", "number")),
    ("{w} had a question about {t}", ("Someone", "The driver", "A colleague", "My aunt")),
)
OPENERS = ("Well,", "So,", "You know,", "Listen,", "Look,", "Yes,", "I mean,", "Anyway,")
CUES = ("own", "shared", "none")


def write(emotion: str, cue: str, rng: np.random.Generator) -> str:
    """A sentence of 4-9 words for an emotion of OWN or "neutral".

    `cue` is what the words express: the emotion ("own"), its valence ("shared") or nothing ("none"). Raises ValueError for other cues.
    """
    if cue not in CUES:
        raise ValueError(f"cue is {cue!r}: choose one of {', '.join(CUES)}")
    frames = NEUTRAL
    if emotion != "neutral" and cue != "none":
        frames = OWN[emotion] if cue == "own" else SHARED[VALENCE.get(emotion, "negative")]
    while True:
        sentence = _fill(frames, rng)
        if 4 <= len(sentence.split()) <= 9:
            return sentence


def _fill(frames: Frames, rng: np.random.Generator) -> str:
    frame, words = frames[rng.integers(len(frames))]
    topic = TOPICS[rng.integers(len(TOPICS))]
    sentence = frame.format(t=topic, w=words[rng.integers(len(words))])
    if "," not in sentence and rng.random() < 0.25:
        opener = OPENERS[rng.integers(len(OPENERS))]
        return f"{opener} {sentence if sentence.startswith('I ') else sentence[0].lower() + sentence[1:]}."
    return f"{sentence[0].upper()}{sentence[1:]}."
