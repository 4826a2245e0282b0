"""Numbers of parameters: those of models of the paper's sizes, and those of the models of this report."""

from pipeline.paper import LANGUAGE_MODELS
from pipeline.report.table import Table


def paper_sizes() -> list[dict]:
    """Counted parameters of models of the paper's sizes."""
    from calm.models.modeling import parameter_table

    return parameter_table()


def parameter_tables(counted: list[dict], calp: dict[str, dict], pretrained: dict[str, dict]) -> list[Table]:
    """The paper's sizes, counted and as quoted; and those of the models of this report.

    Args:
        counted: rows of `paper_sizes`.
        calp, pretrained: metrics of the stages by model.
    """
    tables = []
    if counted:
        columns = ["language model", "its parameters", "CALM's own parameters", "total", "paper: language model", "paper: CALM"]
        quoted = {model.title: (model.parameters, model.calm_parameters) for model in LANGUAGE_MODELS.values()}
        keys = ("lm_parameters", "calm_besides_lm", "all")
        cells = [[row["language_model"], *(f"{row[key]:,}" for key in keys), *quoted[row["language_model"]]] for row in counted]
        note = "Counted on models of these sizes, including CALP's projections and the heads of pretraining."
        tables.append(Table("parameters-paper", "CALM with BERT-tiny's and BERT-base's sizes", columns, cells, note=note))
    if pretrained:
        columns = ["model", "its language model", "CALM's own parameters", "total", "of which SpecTran"]
        keys = ("language_model", "calm_besides_language_model", "all")
        cells = [
            [name, *(f"{metrics['parameters'][key]:,}" for key in keys), spectran_parameters(calp.get(name))]
            for name, metrics in pretrained.items()
        ]
        tables.append(Table("parameters", "Models of this report", columns, cells))
    return tables


def spectran_parameters(calp: dict | None) -> str:
    """SpecTran's parameters, where they are known."""
    count = (calp or {}).get("parameters", {}).get("spectran")
    return f"{count:,}" if count else ""
