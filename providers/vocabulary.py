"""Words that readers of answers know: closed tables, so that every reading can be found here."""

IRREGULAR = {
    "people": "person",
    "men": "man",
    "women": "woman",
    "children": "child",
    "buses": "bus",
    "knives": "knife",
    "wolves": "wolf",
    "mice": "mouse",
    "geese": "goose",
    "skis": "ski",
}
"""Plurals that the stemmer leaves apart from their singular."""

KINDS = {
    "person": ("man", "woman", "boy", "girl", "child", "pedestrian", "adult"),
    "car": ("automobile", "sedan", "suv", "taxi"),
    "truck": ("lorry", "pickup"),
    "motorcycle": ("motorbike",),
    "dog": ("puppy",),
    "cat": ("kitten",),
}
"""More special words that models use for a class; they count only where they are no class themselves."""

# fmt: off
DECOYS = (
    "fire hydrant", "fire truck", "fire extinguisher", "fire escape", "fire alarm", "fire station",
    "fire engine", "fire exit", "fire door", "hot dog", "dog house", "teddy bear", "toy car", "car park",
    "bus stop", "bus station", "train station", "bird house", "cat food", "dog food", "truck stop",
    "smoke detector", "smoke alarm",
)
"""Words of which one is often a class, though together they are not that thing."""

UNKNOWN = frozenset((
    "unknown", "unclear", "unsure", "not sure", "i am not sure", "i'm not sure", "uncertain", "n/a",
    "cannot tell", "can't tell", "cannot determine", "i don't know", "i do not know", "not clear",
    "indeterminate", "impossible to tell", "it is unclear", "it's unclear",
))

NOTHING = frozenset((
    "none", "nothing", "no", "none of them", "none of these", "none of the above", "no objects",
    "nothing visible", "none visible",
))

NUMBERS = {word: number for number, word in enumerate((
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
    "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
))}

NOT_EXACT = frozenset((
    "more", "less", "least", "most", "about", "around", "approximately", "roughly", "over", "under", "nearly",
    "almost", "several", "some", "many", "few", "fewer", "maybe", "or", "between", "no", "not", "none",
    "only", "half", "up", "possibly", "perhaps",
))
"""With one of these beside it, a number isn't the count."""

NEGATORS = frozenset((
    "no", "not", "without", "neither", "never", "none", "nothing", "zero", "isn't", "aren't", "wasn't",
    "weren't", "don't", "doesn't", "cannot", "can't",
))
TURNS = frozenset((
    "but", "however", "only", "just", "except", "although", "though", "while", "instead", "with", "there",
))
"""Words at which what was denied before ends."""

DETERMINERS = frozenset((
    "a", "an", "the", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "several", "some", "many",
))
OTHERS = frozenset(("other", "others", "more", "additional", "further"))
SEEN = frozenset(("visible", "present", "seen", "there", "shown", "detected", "found", "in"))
IS = frozenset(("is", "are", "was", "were"))
# fmt: on
