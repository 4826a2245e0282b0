"""English sentences of 4-9 words whose words carry an emotion, only its valence, or nothing: the texts of the synthetic corpora.

A sentence is a frame filled with a topic and with one of the frame's own words. Every topic goes with every emotion, so a topic tells
nothing; there are some 45 topics and 40 to 60 frame-and-word pairs an emotion, so most sentences of a test split stand in no other split.
"""

import numpy as np

TOPICS = (
    "the trip to the coast", "my cousin's visit", "the new office", "the phone call", "our dinner", "the garden project",
    "the school concert", "her letter", "the apartment", "the weekend market", "the bus ride", "my brother's car", "the old kitchen",
    "his answer", "the game last night", "the radio story", "the job interview", "the museum tour", "the family photo", "the train station",
    "the hotel room", "the history exam", "the meeting on Friday", "my sister's wedding", "the doctor's report", "the restaurant",
    "the basement", "the boat ride", "the election", "the birthday party", "the movie", "the neighbor's house", "the cabin by the lake",
    "the package", "the hospital", "the painting", "the long winter", "the soccer team", "my uncle's farm", "the first lesson",
    "the message from home", "the town hall", "the mountain road", "the computer class", "the final decision",
)  # fmt: skip

# An emotion's own words: (frame, words). {t} is the topic, {w} the word.
OWN = {
    "happy": (
        ("I am so {w} about {t}", ("happy", "glad", "delighted", "thrilled", "excited", "pleased", "cheerful", "joyful")),
        ("{t} made me {w}", ("smile all day", "laugh with joy", "feel so proud", "want to dance", "sing with joy", "feel warm inside")),
        ("I love {t}, it was {w}", ("wonderful", "beautiful", "fantastic", "lovely", "so much fun", "perfect", "delightful")),
        ("We celebrated {t} with {w}", ("music and cake", "all our friends", "happy songs", "balloons and laughter", "a big party")),
        ("{t} was a real {w} for us", ("joy", "treat", "gift", "delight", "blessing", "pleasure", "triumph")),
        ("I enjoyed every {w} of {t}", ("minute", "moment", "second", "bit")),
        ("I am grateful and {w} about {t}", ("happy", "relaxed", "hopeful", "proud", "content")),
        ("Hooray, {t} is {w}", ("a great success", "finally ours", "the best news", "a dream come true")),
    ),
    "sad": (
        ("I am so {w} about {t}", ("sad", "unhappy", "miserable", "heartbroken", "depressed", "sorry", "gloomy", "upset")),
        ("{t} made me {w}", ("cry all night", "weep for hours", "feel so lonely", "miss my mother", "lose all hope", "feel empty inside")),
        ("I miss {t} and feel {w}", ("lonely", "empty", "lost", "hopeless", "so alone", "tired of life")),
        ("After {t} I just {w}", ("sat alone and cried", "stayed in bed crying", "felt numb and alone", "mourned for days")),
        ("I was in {w} because of {t}", ("tears", "grief", "sorrow", "mourning", "despair")),
        ("There is only {w} left after {t}", ("sadness", "sorrow", "grief", "emptiness", "loneliness", "pain")),
        ("Sadly, {t} {w}", ("is gone forever", "died with my father", "broke my heart", "left me in tears")),
    ),
    "anger": (
        ("I am so {w} about {t}", ("angry", "mad", "furious", "annoyed", "outraged", "irritated", "bitter")),
        ("{t} makes me {w}", ("furious", "want to scream", "so mad", "boil with rage", "want to fight", "lose my temper")),
        ("I hate how they {w} {t}", ("ruined", "wrecked", "cheated on", "lied about", "destroyed", "stole")),
        ("How dare they {w} {t}", ("cancel", "ruin", "steal", "mess with", "lie about", "destroy")),
        ("Stop {w} about {t} right now", ("lying", "shouting", "arguing", "complaining", "yelling")),
        ("I demand {w} for {t}", ("an apology", "my money back", "justice", "revenge", "an explanation")),
        ("They had no right to {w} {t}", ("ruin", "touch", "take", "cancel", "sell", "attack")),
    ),
    "surprise": (
        ("I was {w} by {t}", ("amazed", "astonished", "stunned", "surprised", "startled", "completely shocked")),
        ("Wow, {t} {w}", ("came out of nowhere", "appeared so suddenly", "was totally unexpected", "changed all at once")),
        ("{t} was a complete {w}", ("surprise", "shock", "mystery to me", "bolt from the blue")),
        ("I never {w} {t} like this", ("expected", "imagined", "predicted", "dreamed of", "thought to see")),
        ("Wait, are you {w} about {t}", ("serious", "really sure", "joking", "kidding me", "certain")),
        ("Suddenly {t} {w}", ("was right in front of me", "turned upside down", "changed before my eyes", "took everyone by surprise")),
        ("{w}, {t}", ("Nobody saw it coming", "Who could have guessed", "I cannot believe my eyes", "Out of the blue", "How unexpected")),
    ),
    "fear": (
        ("I am so {w} of {t}", ("afraid", "scared", "terrified", "frightened", "nervous because")),
        ("{t} gives me {w}", ("nightmares", "panic attacks", "cold chills", "a terrible fear", "such anxiety", "the creeps")),
        ("I was {w} before {t}", ("shaking with fear", "trembling all over", "frozen with terror", "too scared to sleep", "in a panic")),
        ("Please help me, {t} is {w}", ("dangerous", "not safe", "on fire", "haunted", "a threat to us")),
        ("I {w} that {t} will hurt us", ("worry", "fear", "am afraid", "am terrified", "dread")),
        ("Something {w} is hiding near {t}", ("dangerous", "scary", "deadly", "frightening", "dark")),
        ("Run away from {t}, {w}", ("it is dangerous", "they have weapons", "we could die", "I am scared")),
    ),
    "disgust": (
        ("{t} was so {w}", ("disgusting and dirty", "gross and sticky", "nasty and sour", "filthy and wet", "revolting to look at")),
        ("I felt {w} after {t}", ("sick to my stomach", "like throwing up", "dirty and itchy", "queasy and sick", "like vomiting")),
        ("The {w} of {t} was rotten", ("smell", "stink", "taste", "odor", "stench")),
        ("Yuck, {t} is covered in {w}", ("dirt", "slime", "mold", "garbage", "grease", "rotten food")),
        ("There were {w} all over {t}", ("cockroaches", "maggots", "rats", "worms", "flies", "dirty stains")),
        ("{t} smelled like {w}", ("rotten eggs", "dirty socks", "old garbage", "a sewer", "sour milk", "vomit")),
        ("I find {t} {w}", ("disgusting", "repulsive", "gross", "nasty", "sickening", "revolting")),
    ),
    "contempt": (
        ("{t} is {w}", ("beneath me", "for losers", "a joke to me", "pathetic and weak", "not worth my time", "laughable")),
        ("Only {w} would care about {t}", ("a fool", "an idiot", "losers", "an amateur", "simple people", "a child")),
        ("They are too {w} for {t}", ("stupid", "lazy", "clueless", "weak", "ignorant", "dumb")),
        ("I have no {w} for {t}", ("respect", "regard", "patience", "use at all", "admiration")),
        ("Oh please, {t} is {w}", ("a silly joke", "so mediocre", "worthless", "pitiful", "ridiculous")),
        ("What {w} idea {t} was", ("a stupid", "a pathetic", "an ignorant", "a ridiculous", "a foolish")),
        ("I am far above {t} and {w}", ("such people", "those amateurs", "all of you", "your little friends")),
    ),
}

# Words that tell the valence and no more: several emotions share them, so that only the voice tells which.
SHARED = {
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
        ("I cannot {w} {t} any more", ("stand", "bear", "take", "face")),
        ("What {w} news about {t}", ("terrible", "awful", "bad", "horrible")),
    ),
}
VALENCE = {"happy": "positive", "surprise": "positive"}  # every other emotion is negative

NEUTRAL = (
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
    """A sentence of 4-9 words for an emotion of OWN (or "neutral"), whose words tell it ("own"), its valence ("shared") or nothing."""
    if cue not in CUES:
        raise ValueError(f"cue is {cue!r}: one of {', '.join(CUES)}")
    frames = NEUTRAL
    if emotion != "neutral" and cue != "none":
        frames = OWN[emotion] if cue == "own" else SHARED[VALENCE.get(emotion, "negative")]
    while True:
        sentence = _fill(frames, rng)
        if 4 <= len(sentence.split()) <= 9:
            return sentence


def _fill(frames: tuple, rng: np.random.Generator) -> str:
    frame, words = frames[rng.integers(len(frames))]
    topic = TOPICS[rng.integers(len(TOPICS))]
    sentence = frame.format(t=topic, w=words[rng.integers(len(words))])
    if "," not in sentence and rng.random() < 0.25:
        opener = OPENERS[rng.integers(len(OPENERS))]
        return f"{opener} {sentence if sentence.startswith('I ') else sentence[0].lower() + sentence[1:]}."
    return f"{sentence[0].upper()}{sentence[1:]}."
