"""The figures that the paper prints in its tables 1-12, as printed: percent, and "F1" and "accuracy" by the formulas of its appendix B.

Imports nothing. The column "WA relative improvement" of table 1 follows from the others and is left out.
"""

from typing import NamedTuple

METRICS = {"weighted_accuracy": "WA", "accuracy": "Acc.", "f1_paper": "F1"}  # our names of the paper's columns


class Row(NamedTuple):
    """A row of one of the paper's tables. Metrics that it does not print are not there."""

    label: str
    given: str  # what the model gets, where that is none of our modalities; else empty
    variant: str | None  # which of our variants does the same; None: the figure is only quoted, nothing here can run it
    modality: str  # "audio", "text", "both" or "none", as in `metrics.json`
    size: str | None  # "tiny" or "base": BERT-tiny or BERT-base; None: of no language model
    validation: dict[str, float]
    test: dict[str, float]


class Cost(NamedTuple):
    """A row of table 4."""

    corpora: str
    hours: str
    language_model: str
    lm_parameters: str
    calm_parameters: str
    time: str


def _row(label: str, variant: str | None, modality: str, size: str | None = None, given: str = "", **columns: tuple) -> Row:
    """`columns`: metric=(validation, test), None where the paper leaves the cell empty."""
    validation, test = ({name: pair[n] for name, pair in columns.items() if pair[n] is not None} for n in (0, 1))
    return Row(label, given, variant, modality, size, validation, test)


def _mosei(label: str, variant: str, modality: str, size: str, *values: float) -> Row:
    """Val WA, test WA, val accuracy, test accuracy: the order of the MOSEI tables."""
    return _row(label, variant, modality, size, weighted_accuracy=values[:2], accuracy=values[2:])


def _msp(label: str, variant: str, modality: str, size: str, *values: float) -> Row:
    """Val F1, test F1, val WA, test WA, val accuracy, test accuracy: the order of the MSP-Podcast tables."""
    return _row(label, variant, modality, size, f1_paper=values[:2], weighted_accuracy=values[2:4], accuracy=values[4:])


_MOSEI_CALM = [
    _mosei("CALM TINY", "calm", "both", "tiny", 71.0, 72.1, 80.6, 80.9),
    _mosei("CALM BASE", "calm", "both", "base", 72.4, 73.6, 81.4, 81.8),
]
_MSP_CALM = [
    _msp("CALM TINY", "calm", "both", "tiny", 43.3, 48.3, 70.1, 75.1, 85.9, 85.3),
    _msp("CALM BASE", "calm", "both", "base", 44.7, 49.4, 71.7, 74.2, 86.0, 85.1),
]
_MOSEI_TEXT_TERM = [
    _mosei("CALM TINY without CALP (A)", "no_calp_text", "audio", "tiny", 65.9, 64.7, 78.7, 78.8),
    _mosei("CALM TINY (A)", "calm", "audio", "tiny", 67.2, 66.0, 79.1, 79.0),
    _mosei("CALM BASE without CALP (A)", "no_calp_text", "audio", "base", 66.0, 64.7, 78.8, 78.6),
    _mosei("CALM BASE (A)", "calm", "audio", "base", 66.7, 66.1, 79.1, 79.2),
]
_MSP_TEXT_TERM = [
    _msp("CALM TINY without CALP (A)", "no_calp_text", "audio", "tiny", 38.8, 44.1, 69.1, 72.1, 87.5, 87.5),
    _msp("CALM TINY (A)", "calm", "audio", "tiny", 39.1, 45.8, 69.2, 75.1, 84.3, 85.1),
    _msp("CALM BASE without CALP (A)", "no_calp_text", "audio", "base", 38.8, 37.3, 69.1, 71.2, 87.5, 87.5),
    _msp("CALM BASE (A)", "calm", "audio", "base", 39.1, 46.0, 69.4, 75.1, 84.3, 79.8),
]

TABLES: dict[int, list[Row]] = {
    1: [
        _row("Chance", "chance", "none", weighted_accuracy=(None, 50.0), accuracy=(None, 77.5)),
        _row("M-ELMo (Tseng et al.)", None, "both", weighted_accuracy=(None, 66.2)),
        _row("MM-BERT small", None, "both", weighted_accuracy=(None, 66.6)),
        _row("Transformer (Delbrouck et al.)", None, "both", weighted_accuracy=(65.5, 66.5), accuracy=(81.2, 81.3)),
        _row("Transformer (Khare et al.)", None, "both", given="audio + text + video", weighted_accuracy=(None, 67.4)),
        _row("BERT TINY", "bert_only", "both", "tiny", weighted_accuracy=(65.1, 65.0)),
        _row("BERT BASE", "bert_only", "both", "base", weighted_accuracy=(65.4, 65.3)),
        *_MOSEI_CALM,
    ],
    2: [
        _mosei("No pretraining", "no_pretraining", "both", "tiny", 70.0, 70.8, 80.0, 80.1),
        _mosei("MM-BERT pretraining only", "mm_only", "both", "tiny", 70.2, 71.1, 80.1, 80.3),
        _mosei("CALM", "calm", "both", "tiny", 71.0, 72.1, 80.6, 80.9),
        _mosei("CALM + OOD", "calm_ood", "both", "tiny", 71.3, 72.2, 81.0, 81.2),
        _mosei("No pretraining", "no_pretraining", "both", "base", 70.9, 71.7, 80.3, 80.4),
        _mosei("MM-BERT pretraining only", "mm_only", "both", "base", 71.2, 72.3, 80.6, 81.0),
        _mosei("CALM", "calm", "both", "base", 72.4, 73.6, 81.4, 81.8),
        _mosei("CALM + OOD", "calm_ood", "both", "base", 72.5, 73.6, 81.5, 81.9),
    ],
    3: [
        _row("Lotfian and Busso (2018)", None, "audio", f1_paper=(None, 26.3)),
        _row("Human performance, estimated by Lotfian and Busso", None, "none", given="all", f1_paper=(None, 38.9)),
        _row(
            "Listener adaptive models (Ando et al.)",
            None,
            "audio",
            given="audio + augmentation",
            weighted_accuracy=(None, 59.7),
            accuracy=(None, 48.6),
        ),
        *_MSP_CALM,
    ],
    5: _MOSEI_TEXT_TERM,
    6: _MSP_TEXT_TERM,
    7: [
        *_MOSEI_TEXT_TERM[:2],
        _mosei("CALM TINY (L)", "calm", "text", "tiny", 70.4, 71.1, 80.2, 80.8),
        _MOSEI_CALM[0],
        *_MOSEI_TEXT_TERM[2:],
        _mosei("CALM BASE (L)", "calm", "text", "base", 72.0, 72.5, 81.2, 81.3),
        _MOSEI_CALM[1],
    ],
    8: [
        *_MSP_TEXT_TERM[:2],
        _msp("CALM TINY (L)", "calm", "text", "tiny", 41.3, 46.0, 69.4, 75.2, 84.5, 85.1),
        _MSP_CALM[0],
        *_MSP_TEXT_TERM[2:],
        _msp("CALM BASE (L)", "calm", "text", "base", 43.1, 48.5, 70.2, 73.8, 84.5, 84.4),
        _MSP_CALM[1],
    ],
    9: [
        _mosei("20%", "labels_20", "both", "tiny", 69.1, 70.8, 79.1, 79.1),
        _mosei("40%", "labels_40", "both", "tiny", 69.8, 71.3, 79.5, 79.6),
        _mosei("60%", "labels_60", "both", "tiny", 69.9, 71.5, 80.3, 80.2),
        _mosei("80%", "labels_80", "both", "tiny", 70.8, 71.9, 80.5, 80.5),
        _mosei("100%", "calm", "both", "tiny", 71.0, 72.1, 80.6, 80.9),
    ],
    10: [
        _msp("20%", "labels_20", "both", "tiny", 42.3, 47.8, 69.6, 73.1, 83.7, 84.7),
        _msp("40%", "labels_40", "both", "tiny", 42.9, 48.2, 69.8, 73.9, 83.9, 84.4),
        _msp("60%", "labels_60", "both", "tiny", 42.9, 48.3, 69.8, 73.3, 84.6, 85.4),
        _msp("80%", "labels_80", "both", "tiny", 43.1, 48.4, 69.8, 74.2, 84.3, 85.2),
        _msp("100%", "calm", "both", "tiny", 43.3, 48.3, 70.1, 75.1, 85.9, 85.3),
    ],
    11: [
        _mosei("CALM TINY [2*64 Patch, 1*64 Stride]", "patch_2x64", "both", "tiny", 71.0, 71.9, 80.7, 80.8),
        _mosei("CALM TINY [20*8 Patch, 10*4 Stride]", "patch_20x8", "both", "tiny", 70.9, 71.7, 80.5, 80.7),
        _mosei("CALM TINY [10*16 Patch, 5*8 Stride]", "calm", "both", "tiny", 71.0, 72.1, 80.6, 80.9),
    ],
    12: [
        _msp("CALM TINY [2*64 Patch, 1*64 Stride]", "patch_2x64", "both", "tiny", 43.6, 49.1, 70.1, 73.7, 84.7, 85.5),
        _msp("CALM TINY [20*8 Patch, 10*4 Stride]", "patch_20x8", "both", "tiny", 43.3, 48.8, 70.2, 74.1, 86.2, 85.3),
        _msp("CALM TINY [10*16 Patch, 5*8 Stride]", "calm", "both", "tiny", 43.3, 48.3, 70.1, 75.1, 85.9, 85.3),
    ],
}

COSTS = [  # table 4; on 8 Tesla V100 (6.2)
    Cost("MOSEI only", "65 hr.", "BERT TINY", "4.5M", "5M", "40 min."),
    Cost("MOSEI only", "65 hr.", "BERT BASE", "125M", "19M", "2.5 hr."),
    Cost("CMU-MOSEI & MSP-Podcasts", "148 hr.", "BERT BASE", "125M", "19M", "5.5 hr."),
]


def tables_of(variant: str, modality: str) -> str:
    return ""
