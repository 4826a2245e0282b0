"""Published figures of other systems on the folds of a public benchmark, quoted beside ours. Imports nothing heavy.

EmoBox (arXiv 2406.07162), table 4: a frozen encoder with a head trained on it, in percent, as printed.
"""

from typing import NamedTuple


class Published(NamedTuple):
    """A row of EmoBox's table 4."""

    encoder: str
    balanced_accuracy: float  # UA
    accuracy_argmax: float  # WA
    macro_f1_argmax: float


SOURCE = "EmoBox (arXiv 2406.07162), table 4"
EMOBOX = {  # data set, by its name in the metadata -> rows
    "ravdess": (
        Published("wav2vec 2.0 base", 54.33, 55.40, 53.99),
        Published("HuBERT base", 65.43, 66.21, 65.31),
        Published("HuBERT large", 70.00, 70.29, 69.54),
        Published("WavLM base", 61.56, 62.10, 61.18),
        Published("WavLM large", 72.00, 72.22, 71.42),
        Published("data2vec base", 51.92, 52.22, 51.10),
        Published("data2vec large", 59.30, 59.50, 58.74),
        Published("data2vec 2.0 base", 64.66, 64.84, 64.18),
        Published("data2vec 2.0 large", 71.15, 71.63, 70.94),
        Published("Whisper large v3", 75.32, 75.87, 75.19),
    ),
}
